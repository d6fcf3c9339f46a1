"""`python -m eval.reference --data DIR`: published figures beside ours, computed anew from the files they
belong to.

DIR holds `REFERENCE_FIGURES.json` (`[{id, value, …}]`) and the data it speaks of. A figure counts as
reproduced when it agrees to every digit given: rounded or cut to that many decimals, or within 1e-12 where it
is stated in full. Not computed here: SPICE and CLIPScore (their models would have to be downloaded), and
plain counts of data sets.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from eval.layouts.captions import read_references
from eval.layouts.files import read_json
from eval.metrics.captions import caption_scores
from eval.metrics.detection import COCO_STATS, LVIS_STATS
from eval.metrics.judged import multiple_choice
from eval.metrics.voc import read_voc_folder, voc_ap
from eval.score import score_task
from rgpt.errors import InputError

FULL = 14
"""From this many decimals on a figure counts as stated in full."""
TOLERANCE = 1e-12
NOT_COMPUTED = ("SPICE", "CLIPScore", "RefCLIPScore")


class Figure(NamedTuple):
    """One number: as published, and as computed here."""

    set_id: str
    name: str
    published: float
    ours: float

    @property
    def decimals(self) -> int:
        exponent = Decimal(repr(self.published)).as_tuple().exponent
        return max(0, -exponent) if isinstance(exponent, int) else 0

    @property
    def reproduced(self) -> bool:
        if self.decimals >= FULL or isinstance(self.published, int):
            return abs(self.published - self.ours) <= TOLERANCE
        unit = 10.0**-self.decimals  # some sources round the last digit, some cut
        return any(abs(f(self.ours / unit) * unit - self.published) < unit / 2 for f in (round, math.trunc))


def _minus(value: float | None) -> float:
    """The evaluators write -1 where there is nothing to find, we write None."""
    return -1.0 if value is None else value


def _stats(scores: dict[str, Any], names: tuple[str, ...] | list[str]) -> list[float]:
    return [_minus(scores["mAP" if name == "AP" else name]) for name in names]


def _coco(data: Path, predictions: str, **options: Any) -> dict[str, Any]:
    folder = data / "coco_val2014_100"
    truth = folder / "instances_val2014_100.json"
    return score_task("region_classification", truth, folder / predictions, **options)


def coco_bbox(data: Path) -> Any:
    return _stats(_coco(data, "instances_val2014_fakebbox100_results.json"), list(COCO_STATS))


def coco_segm_half(data: Path) -> Any:
    ids = read_json(data / "coco_val2014_100" / "half_image_ids.json")
    scores = _coco(data, "fakesegm_results_half.json", iou_type="segm", ids=ids)
    return _stats(scores, list(COCO_STATS))


def coco_gtbox(data: Path) -> Any:
    scores = _coco(data, "gtbox_classification_results.json")
    stats = _stats(scores, list(COCO_STATS))
    return {"top1_acc": scores["accuracy"], "n": scores["n"], "coco_stats": stats}


def regiongpt_style(data: Path) -> Any:
    scores = _coco(data, "regiongpt_style_answers.jsonl", protocol="author-script")
    return {
        "acc_percent": 100 * scores["accuracy"],
        "coco_stats": _stats(scores, list(COCO_STATS)),
        "dropped": scores["dropped"],
        "kept": scores["detections"],
    }


def coco_tiny(data: Path) -> Any:
    folder = data / "coco_tiny"
    scores = score_task(
        "region_classification", folder / "gt_dataset.json", folder / "dt_dataset.json", iou_type="segm"
    )
    theirs = ("AP_all", "AP_50", "AP_75", "AP_small", "AP_medium", "AP_large")
    theirs += ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
    return dict(zip(theirs, _stats(scores, list(COCO_STATS)), strict=True))


def _lvis(data: Path, predictions: str) -> dict[str, Any]:
    folder = data / "lvis_v05_val"
    return score_task("region_classification", folder / "lvis_val_60.json", folder / predictions)


def lvis_detections(data: Path) -> Any:
    return dict(
        zip(LVIS_STATS, _stats(_lvis(data, "made_detections_60.json"), list(LVIS_STATS)), strict=True)
    )


def lvis_gtbox(data: Path) -> Any:
    scores = _lvis(data, "gtbox_classification_60.json")
    stats = dict(zip(LVIS_STATS, _stats(scores, list(LVIS_STATS)), strict=True))
    return {"top1_acc": scores["accuracy"], "n": scores["n"], "lvis": stats}


def voc_sample(data: Path) -> Any:
    folder = data / "voc_ap_sample2"
    boxes = read_voc_folder(folder / "groundtruths", folder / "detections")
    return {
        "iou": 0.3,
        "ap_every_point": voc_ap(*boxes, iou=0.3),
        "ap_11_point": voc_ap(*boxes, 0.3, points=11),
    }


def coco_captions(data: Path) -> Any:
    folder = data / "captions_coco1000"
    return score_task("region_captioning", folder / "gts.json", folder / "res.json", tokenised=True)


def nlg_eval(data: Path) -> Any:
    folder = data / "nlg_eval"
    references = [folder / "ref1.txt", folder / "ref2.txt"]
    return score_task("region_captioning", references, folder / "hyp.txt")


def clipscore(data: Path) -> Any:
    folder = data / "clipscore"
    return score_task("region_captioning", folder / "refs.json", folder / "good_captions.json")


def _first_against_rest(captions: dict[str, list[str]]) -> Any:
    several = {i: listed for i, listed in captions.items() if len(listed) > 1}
    scores, _ = caption_scores({i: v[1:] for i, v in several.items()}, {i: v[0] for i, v in several.items()})
    return scores | {"n": len(several)}


def refs_first_against_rest(data: Path) -> Any:
    return _first_against_rest(read_references(data / "refer" / "refcocog_layout" / "refs(umd).p"))


def ferret_captions(data: Path) -> Any:
    return _first_against_rest(read_references(data / "ferret_bench" / "coco_captions.json"))


def class_name_baseline(data: Path) -> Any:
    rows = read_json(data / "refer" / "google_refexp_val_amt.json")
    references = {str(index): [row["refexp"]] for index, row in enumerate(rows)}
    scores, _ = caption_scores(references, {str(index): row["category"] for index, row in enumerate(rows)})
    return scores | {"n": len(rows)}


def ferret(data: Path) -> Any:
    scores = score_task("ferret_bench", None, data / "ferret_bench" / "gar_1b_review_scores.jsonl")
    return round(scores["relative_score"], 1)


def dlc(data: Path) -> Any:
    return score_task("dlc_bench", None, data / "dlc_bench" / "dam_3b_v1_judged_scores.json")


def gar_vqa(data: Path) -> Any:
    rows = read_json(data / "gar_bench" / "gar_1b_vqa_answers.json")
    found = multiple_choice(*([row[k] for row in rows] for k in ("model_output", "answer", "type")))
    return found | {
        "per_type": {k.replace("/", "_"): f"{right}/{n}" for k, (right, n) in found["per_type"].items()}
    }


def pope(split: str, all_yes: bool) -> Callable[[Path], Any]:
    def compute(data: Path) -> Any:
        questions, answers = (
            data / "pope" / f"coco_pope_{split}.json",
            data / "pope" / f"made_answers_{split}.json",
        )
        if all_yes:
            given = [{"question": q["text"], "answer": "yes"} for q in read_json(questions)]
            return score_task("pope", questions, given)
        return score_task("pope", questions, answers)

    return compute


SETS: dict[str, Callable[[Path], Any]] = {
    "coco_bbox_fakebbox100": coco_bbox,
    "coco_segm_half": coco_segm_half,
    "coco_gtbox_cls": coco_gtbox,
    "regiongpt_style_cls": regiongpt_style,
    "coco_tiny_segm": coco_tiny,
    "voc_ap_sample2": voc_sample,
    "lvis_bbox_made_60": lvis_detections,
    "lvis_gtbox_cls_60": lvis_gtbox,
    "coco_captions_1000": coco_captions,
    "nlg_eval_example": nlg_eval,
    "clipscore_good": clipscore,
    "refs_layout_first_vs_rest": refs_first_against_rest,
    "google_refexp_classname_baseline": class_name_baseline,
    "ferret_captions_leave_one_out": ferret_captions,
    "ferret_bench_gar_1b": ferret,
    **{
        f"pope_{split}_{kind}": pope(split, kind == "all_yes")
        for split in ("random", "popular", "adversarial")
        for kind in ("all_yes", "made")
    },
    "dlc_dam_3b_v1_judged": dlc,
    "gar_vqa_gar_1b": gar_vqa,
}


def figures(data: Path, only: str | None = None) -> Iterator[Figure]:
    """Every published number of `data` that we compute, set by set. Raises InputError on missing files."""
    for record in read_json(data / "REFERENCE_FIGURES.json"):
        compute = SETS.get(record["id"])
        if compute is not None and only in (None, record["id"]):
            ours = compute(data)
            for name, published in _flat(record["value"]):
                if name not in NOT_COMPUTED:
                    yield Figure(record["id"], name, *_numbers(published, _at(ours, name)))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}, "c": [2, 3]}` as ("a.b", 1), ("c.0", 2), ("c.1", 3)."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path or "value", value


def _at(value: Any, path: str) -> Any:
    return dict(_flat(value))[path]


def _numbers(published: Any, ours: Any) -> tuple[float, float]:
    if isinstance(published, str):  # "34/69"
        pairs = [[int(n) for n in text.split("/")] for text in (published, ours)]
        return tuple(right / n if pairs[0][1] == pairs[1][1] else -1.0 for right, n in pairs)  # type: ignore
    return published, ours


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.reference", description=__doc__)
    parser.add_argument("--data", required=True, help="folder with REFERENCE_FIGURES.json")
    parser.add_argument("--only", choices=sorted(SETS), help="one set")
    args = parser.parse_args(argv)
    wrong = count = 0
    try:
        print(f"{'set':<34}{'figure':<24}{'published':>22}{'ours':>22}  agrees")
        for figure in figures(Path(args.data), args.only):
            count += 1
            wrong += not figure.reproduced
            shown = f"{figure.published!r:>22}{figure.ours!r:>22}"
            print(f"{figure.set_id:<34}{figure.name:<24}{shown}  {'yes' if figure.reproduced else 'NO'}")
    except (InputError, OSError) as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    print(f"{count - wrong} of {count} figures reproduced to every digit given")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
