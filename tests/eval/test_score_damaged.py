"""Files of every layout with one thing in them damaged: the same scores, or one sentence that says where."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import math
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.layouts.captions import read_hypotheses, read_references
from eval.score import main
from rgpt.errors import InputError
from rgpt.regions.rle import compress

EXAMPLES = 60  # of each layout
NAMES = ("dog", "cat", "traffic_light")


class Files(NamedTuple):
    """A ground truth and predictions that fit, the options of `eval.score`, and whether each prediction
    stands for itself, so that a row more is another answer."""

    task: str
    gt: Any
    predictions: Any
    options: tuple[str, ...] = ()
    free_rows: bool = False


def coco(rng: random.Random, masks: bool = False, lvis: bool = False) -> dict[str, Any]:
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 90, "height": 80} for n in range(3)]
    categories: list[dict[str, Any]] = [{"id": n, "name": name} for n, name in enumerate(NAMES, start=1)]
    annotations = []
    for n in range(5):
        x, y, w, h = rng.randrange(40), rng.randrange(40), rng.randint(8, 40), rng.randint(8, 40)
        own = {"image_id": n % 3, "category_id": rng.randint(1, 3), "bbox": [x, y, w, h], "iscrowd": 0}
        annotations.append({"id": n, **own, "area": w * h})
        if masks:
            annotations[-1]["segmentation"] = rectangle(x, y, w, h)
    if lvis:
        for image in images:
            image |= {"neg_category_ids": [1, 2, 3], "not_exhaustive_category_ids": []}
        for category in categories:
            category["frequency"] = rng.choice("rcf")
    return {"images": images, "annotations": annotations, "categories": categories}


def rectangle(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    mask = np.zeros((80, 90), dtype=bool)
    mask[y : y + h, x : x + w] = True
    flat = mask.reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size])
    return {"size": [80, 90], "counts": compress(np.array([0, *runs] if flat[0] else runs))}


def scores(rng: random.Random, n: int) -> list[float]:
    return rng.sample([k / 100 for k in range(1, 100)], n)  # none ties


def results(rng: random.Random, lvis: bool = False, masks: bool = False, named: bool = False) -> Files:
    gt, rows = coco(rng, masks, lvis), []
    for a, score in zip(gt["annotations"], scores(rng, 5), strict=True):
        row = {"image_id": a["image_id"], "category_id": rng.randint(1, 3), "score": score}
        shift = 0 if named else rng.randrange(6)
        x, y, w, h = a["bbox"]
        row |= {"segmentation": rectangle(x + shift, y, w, h)} if masks else {"bbox": [x + shift, y, w, h]}
        rows.append(row | ({"ann_id": a["id"]} if named else {}))
    task = "region_classification" if named else "detection"
    return Files(task, gt, rows, ("--iou-type", "segm") if masks else (), free_rows=not named)


def detection_rows(rng: random.Random) -> Files:
    gt, flat = results(rng)[1:3]
    rows = [{"id": str(n), "raw_answer": "", "detections": []} for n in range(3)]
    for row in flat:
        rows[row["image_id"]]["detections"].append(row)
    return Files("detection", gt, rows, ("--base", "dog,cat"))


def class_rows(rng: random.Random) -> Files:
    gt, rows = coco(rng), []
    for a, score in zip(gt["annotations"], scores(rng, 5), strict=True):
        said = rng.choice(NAMES)
        row = {"id": str(a["id"]), "image_id": a["image_id"], "raw_answer": said, "answer": said}
        rows.append(row | {"score": score, "scores": {said: score}, "seconds": 0.1})
    return Files("region_classification", gt, rows)


def answer_rows(rng: random.Random) -> Files:
    gt, rows = coco(rng), []
    for a in gt["annotations"]:
        x, y, w, h = a["bbox"]
        name = NAMES[a["category_id"] - 1].replace("_", " ")
        row = {"text": rng.choice((name, "boat")), "gt_name": name, "bbox": [[x, y, x + w, y + h]]}
        rows.append(row | {"image_id": a["image_id"], "score": 1.0, "metadata": {}})
    return Files("region_classification", gt, rows)


def named(rng: random.Random) -> Files:
    gt = coco(rng)
    rows = [{"id": a["id"], "raw_answer": rng.choice(("a dog", "It is: a cat."))} for a in gt["annotations"]]
    return Files("open_vocabulary", gt, rows, ("--embedder", "none"))


def pope(rng: random.Random, by_place: bool) -> Files:
    gt = [
        {
            "question_id": n,
            "image": f"{n}.jpg",
            "text": f"Is there a {n}?",
            "label": rng.choice(["yes", "no"]),
        }
        for n in range(1, 6)
    ]
    said = [rng.choice(("Yes.", "no", "There is none")) for _ in gt]
    if by_place:
        rows = [{"question": q["text"], "answer": s} for q, s in zip(gt, said, strict=True)]
    else:
        rows = [{"id": q["question_id"], "raw_answer": s} for q, s in zip(gt, said, strict=True)]
    return Files("pope", gt, rows)


def corners(rng: random.Random) -> list[int]:
    x, y = rng.randrange(40), rng.randrange(40)
    return [x, y, x + rng.randint(5, 40), y + rng.randint(5, 40)]


def picks(rng: random.Random) -> Files:
    gt, rows = [], []
    for n in range(1, 5):
        offered = [corners(rng) for _ in range(3)]
        box = rng.choice([*offered, None])
        gt.append({"id": n, "expression": f"thing {n}", "box": box, "candidates": offered})
        said = rng.choice(("Region [2].", "No corresponding options found.", "hm", "1"))
        rows.append({"id": str(n), "raw_answer": said, "regions": [{"box": c} for c in offered]})
    return Files("referring", gt, rows)


def rec(rng: random.Random, fractions: bool) -> Files:
    gt = []
    for n in range(4):
        box: list[float] = [v / 100 for v in corners(rng)] if fractions else corners(rng)  # type: ignore
        gt.append({"img_path": f"{n}.jpg", "expression": f"the {n}", "bbox": box, "width": 120, "height": 90})
    rows = [row | {"bbox": [v * (0.9 if k < 2 else 1) for k, v in enumerate(row["bbox"])]} for row in gt]
    return Files("referring", gt, rows)


def google(rng: random.Random) -> Files:
    annotations: dict[str, Any] = {}
    refexps: dict[str, Any] = {}
    rows = []
    for n in range(10, 13):
        x1, y1, x2, y2 = corners(rng)
        annotations[str(n)] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "refexp_ids": [2 * n, 2 * n + 1]}
        for key in (2 * n, 2 * n + 1):
            refexps[str(key)] = {"raw": f"thing {key}", "tokens": []}
            found = [[x1, y1 + rng.randrange(4), x2 - x1, y2 - y1]] * rng.randint(0, 2)
            rows.append({"refexp_id": key, "annotation_id": n, "predicted_bounding_boxes": found})
    return Files("referring", {"images": {}, "annotations": annotations, "refexps": refexps}, rows)


def shikra(rng: random.Random) -> Files:
    gt, rows = [], []
    for n in range(4):
        box = corners(rng)
        gt.append({"img_path": f"{n}.jpg", "expression": f"the {n}", "bbox": box, "width": 100, "height": 80})
        square = [(v + 10 * (k % 2)) / 100 for k, v in enumerate(box)]
        target = ",".join(f"{v:.3f}" for v in square)
        rows.append({"pred": rng.choice((f"Answer: [{target}] .", "?")), "target": f"Answer: [{target}] ."})
    return Files("referring", gt, rows)


def dlc(rng: random.Random) -> Files:
    gt, rows = {}, []
    for n in range(100, 104):
        gt[str(n)] = [{"question": "?", "choices": [["x", 1]], "type": t} for t in ("positive", "negative")]
        marks: dict[str, Any] = {k: [rng.choice((1, 0.5, 0, -1))] for k in ("positives", "negatives")}
        rows.append({"id": n, "pred": "a thing", "recognition_result": rng.random() < 0.7, **marks})
    return Files("dlc_bench", gt, rows)


def reviews(rng: random.Random) -> Files:
    rows = [
        {"question_id": n, "category": rng.choice("ab"), "tuple": [rng.randint(1, 10), rng.randint(1, 10)]}
        for n in range(5)
    ]
    return Files("osprey_description", None, rows, free_rows=True)


def choices(rng: random.Random) -> Files:
    gt = [
        {
            "question": f"{n}?",
            "choices": ["A. x", "B. y"],
            "answer": rng.choice("AB"),
            "type": rng.choice("cd"),
        }
        for n in range(5)
    ]
    return Files("gar_vqa", gt, [row | {"model_output": rng.choice(("a", "B", "B."))} for row in gt])


LAYOUTS: dict[str, Callable[[random.Random], Files]] = {
    "COCO results": results,
    "COCO results of masks": functools.partial(results, masks=True),
    "COCO results of given boxes": functools.partial(results, named=True),
    "LVIS results": functools.partial(results, lvis=True),
    "LVIS results of masks": functools.partial(results, lvis=True, masks=True),
    "rows of detections": detection_rows,
    "rows of names": class_rows,
    "RegionGPT's answers": answer_rows,
    "names in one's own words": named,
    "POPE's answers": functools.partial(pope, by_place=True),
    "rows of yes and no": functools.partial(pope, by_place=False),
    "rows of picks": picks,
    "REC in pixels": functools.partial(rec, fractions=False),
    "REC in fractions": functools.partial(rec, fractions=True),
    "Google RefExp": google,
    "Shikra": shikra,
    "DLC-Bench": dlc,
    "reviews": reviews,
    "GAR-Bench": choices,
}


# ------------------------------------------------------------------------------------------------ the damage


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a parsed file."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def wrong_values(value: Any) -> list[Any]:
    """What cannot be meant where `value` stands, or is the same in another spelling."""
    if value is None:
        return ["²", 7, [1]]
    if isinstance(value, bool):
        return [None, "²", 7, []]
    if isinstance(value, int | float):
        return [None, True, "²", "a dog", [], {}, math.nan, math.inf, 10**400, str(value), float(value)]
    if isinstance(value, str):
        return [None, True, [], {}, math.nan, "half \ud83d"]
    return [None, 7, True, "a dog", *([] if isinstance(value, dict) else [{}])]


class Damage(NamedTuple):
    """What was done, and where: the side and the path in it."""

    what: str
    side: str
    path: tuple[Any, ...]


def damaged(files: Files, draw: Callable[[Any], Any]) -> tuple[dict[str, str], Damage]:
    """Both files as text, one of them damaged."""
    sides = {"predictions": copy.deepcopy(files.predictions)}
    if files.gt is not None:
        sides["gt"] = copy.deepcopy(files.gt)
    side = draw(st.sampled_from(sorted(sides)))
    what = draw(st.sampled_from(["value", "value", "value", "key", "row again", "row lost", "cut"]))
    value = sides[side]
    free_rows = files.free_rows or (side, files.task) == ("gt", "region_captioning")  # two may write the same
    path: tuple[Any, ...] = draw(st.sampled_from(list(places(value))))
    inside = functools.reduce(lambda v, key: v[key], path[:-1], value)
    if what == "value":
        values = wrong_values(inside[path[-1]])
        inside[path[-1]] = draw(
            st.sampled_from([v for v in values if v is not True or path[-1] != "iscrowd"])
        )
    elif what == "key" and isinstance(inside, dict):
        del inside[path[-1]]
    elif what == "row again" and isinstance(value, list) and not free_rows:
        value.append(copy.deepcopy(draw(st.sampled_from(value))))
    elif what == "row lost" and side == "predictions" and isinstance(value, list) and not free_rows:
        value.pop()
    else:
        what = "cut"
    texts = {name: json.dumps(content) for name, content in sides.items()}
    if what == "cut":
        texts[side] = texts[side][: draw(st.integers(0, len(texts[side]) - 1))]
    return texts, Damage(what, side, path)


@functools.cache
def valid(layout: str, seed: int) -> tuple[Files, Any]:
    files = LAYOUTS[layout](random.Random(seed))
    sides = {"predictions": files.predictions} | ({} if files.gt is None else {"gt": files.gt})
    code, found, said = scored(files, {name: json.dumps(content) for name, content in sides.items()})
    assert code == 0, said
    return files, found


def scored(files: Files, texts: dict[str, str]) -> tuple[int, Any, str]:
    """(exit status, scores, stderr) of the command."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [files.task, *files.options, "--json", str(Path(folder) / "scores.json")]
        for name, text in texts.items():
            (Path(folder) / f"{name}.json").write_text(text)
            arguments += [f"--{name}", str(Path(folder) / f"{name}.json")]
        error = io.StringIO()
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            code = main(arguments)
        out = Path(folder) / "scores.json"
        assert out.exists() is (code == 0)
        return code, json.loads(out.read_text()) if code == 0 else None, error.getvalue()


ROW = re.compile(r"\b(row|annotation|image|category|id|expression|refexp|question)s? \S|:\d+:")


def says_where(said: str, damage: Damage, files: Files) -> bool:
    """One sentence that names the file, and of damage inside a row also row and field."""
    one = said.count("\n") == 1 and said.startswith("eval: ") and "compare both files" not in said
    if damage.what in ("cut", "row lost", "row again") or len(damage.path) < 2:
        return one and ".json" in said
    keys = {k for content in (files.gt, files.predictions) for p in places(content) for k in p[-1:]}
    named = any(re.search(rf"\b{re.escape(key)}\b", said) for key in keys if isinstance(key, str))
    return one and bool(ROW.search(said)) and named


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damage_is_harmless_or_named(layout: str) -> None:
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(seed=st.integers(0, 7), data=st.data())
    def check(seed: int, data: st.DataObject) -> None:
        files, expected = valid(layout, seed)
        texts, damage = damaged(files, data.draw)
        code, found, said = scored(files, texts)
        assert code in (0, 2)
        if code == 0:
            assert found == expected, damage
        else:
            assert says_where(said, damage, files), (damage, said)

    check()


CAPTIONS: dict[str, tuple[Any, Any]] = {
    "COCO's": (
        {"annotations": [{"id": n, "image_id": n % 3, "caption": f"a {n}"} for n in range(6)]},
        [{"image_id": n, "caption": f"the {n}"} for n in range(3)],
    ),
    "RefCOCO's": (
        {str(n): [f"a {n}", "left"] for n in range(3)},
        {"predictions": [{"ref_id": n, "sent": f"the {n}"} for n in range(3)]},
    ),
    "Google's": (
        [{"ann_id": n, "refexp": f"a {n}"} for n in range(3)],
        [{"annotation_id": n, "generated_refexp": f"the {n}"} for n in range(3)],
    ),
    "Visual Genome's": (
        [{"id": 1, "regions": [{"region_id": n, "phrase": f"a {n}", "x": 1} for n in range(3)]}],
        [{"id": n, "raw_answer": f"the {n}", "answer": f"the {n}"} for n in range(3)],
    ),
}


@pytest.mark.parametrize("layout", CAPTIONS)
def test_damaged_captions_are_read_as_before_or_named(layout: str) -> None:
    """The readers alone: METEOR would take minutes, and scores what these give."""
    files = Files("region_captioning", *CAPTIONS[layout])

    def read(texts: dict[str, str]) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder) / f"{name}.json" for name in texts}
            for name, path in paths.items():
                path.write_text(texts[name])
            references = read_references(paths["gt"])
            return references, read_hypotheses(paths["predictions"], references)

    expected = read({"gt": json.dumps(files.gt), "predictions": json.dumps(files.predictions)})

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        texts, damage = damaged(files, data.draw)
        try:
            found = read(texts)
        except InputError as problem:
            assert says_where(f"eval: {problem}\n", damage, files), (damage, str(problem))
        else:
            references, (said, failed) = found
            if set(references) - set(said):
                return  # the scorer refuses an id without a caption
            if damage.side == "gt" and damage.what == "value" and len(damage.path) == 1:
                return  # words in place of a list of them are one reference
            lost = damage.what == "row lost"
            assert (references, failed) == (expected[0], expected[1][1]), damage
            assert said == expected[1][0] or (lost and said.items() < expected[1][0].items()), damage

    check()
