"""Naming a region in one's own words (LVIS, PACO): one protocol, `osprey`.

`semantic_similarity` is the cosine of sentence embeddings, `semantic_iou` shared words over all words, both
means over regions; a failed item counts 0. `accuracy` is equality of the words, which the published tables
lack.
"""

from __future__ import annotations

from typing import Any

from eval.layouts.answers import are_answer_rows, read_answer_rows
from eval.layouts.coco import is_coco, read_truth
from eval.layouts.fields import field_of, has_rows, id_text, list_of
from eval.layouts.files import PathOrValue, name_of, read_json, row_name, show
from eval.layouts.rows import are_rows, check_complete, read_predictions, read_rows
from eval.metrics.semantic import plain_answer, plain_name, semantic_iou, semantic_similarity
from eval.scorers.embedders import USUAL, load_embedder
from eval.scorers.options import DEFAULTS, Options
from rgpt.errors import InputError

PROTOCOLS = ("osprey",)
USES = frozenset({"ids", "subset", "embedder"})


def score(
    gt: PathOrValue, predictions: PathOrValue, protocol: str | None = None, options: Options = DEFAULTS
) -> dict[str, Any]:
    """`semantic_similarity`, `semantic_iou`, `accuracy`, and rows by id in `items`. Raises InputError."""
    names, value = _names(gt), read_predictions(predictions)
    said: dict[str, str] = {}
    failed: set[str] = set()
    if are_rows(value):
        rows = read_rows(value, predictions, names)
        said = {r.id: r.raw_answer for r in rows}
        failed = {r.id for r in rows if r.failed}
    elif are_answer_rows(value) and is_coco(read_json(gt)):
        said = {
            id_text(a.ann_id, name_of(gt)): a.text
            for a in read_answer_rows(value, read_truth(gt), predictions)
        }
    else:
        raise InputError.about(
            name_of(predictions),
            "rows of eval.run or RegionGPT answer rows",
            show(value),
            "eval/README.md shows the layouts",
        )
    wanted = options.chosen(names)
    check_complete(said, wanted, predictions, options.subset)
    asked = [i for i in wanted if i in said]
    if not asked:
        raise InputError.about(name_of(predictions), "at least one answered item", "none", "check the ids")
    answers, truths = [plain_answer(said[i]) for i in asked], [plain_name(names[i]) for i in asked]
    ious = [semantic_iou(a, t) for a, t in zip(answers, truths, strict=True)]
    similarities: list[float] | None = None
    embedder = options.embedder or USUAL
    if embedder != "none":
        embed = load_embedder(embedder) if isinstance(embedder, str) else embedder
        similarities = semantic_similarity(answers, truths, embed)
    n = len(asked)
    return {
        "semantic_similarity": sum(similarities) / n if similarities else None,
        "semantic_iou": sum(ious) / n,
        "accuracy": sum(a.lower() == t.lower() for a, t in zip(answers, truths, strict=True)) / n,
        "embedder": embedder if isinstance(embedder, str) else getattr(embedder, "__name__", "given"),
        "n": n,
        "failed": len(failed & set(asked)),
        "protocol": protocol or PROTOCOLS[0],
        "items": {i: {"semantic_iou": v} for i, v in zip(asked, ious, strict=True)},
    }


def _names(gt: PathOrValue) -> dict[str, str]:
    """Name by item: of the annotations of a COCO-format file, or of Osprey's lists of pictures.

    Osprey's files are `[{id, categories: [name, …], annotations: [{bbox, segmentation}, …]}]`; an item is
    `<picture id>/<position from 0>`.
    """
    value = read_json(gt)
    if is_coco(value):
        truth = read_truth(gt)
        return {
            id_text(i, name_of(gt)): truth.name(a["category_id"])
            for i, a in truth.annotations.items()
            if not a["iscrowd"]
        }
    if has_rows(value, "id", "categories"):
        found = {}
        for index, row in enumerate(value):
            thing = row_name(gt, index)
            picture = id_text(field_of(row, "id", thing), f"{thing}, id")
            for n, name in enumerate(list_of(row, "categories", thing)):
                if not isinstance(name, str) or not name.strip():
                    raise InputError.about(f"{thing}, categories", "names", show(name))
                if f"{picture}/{n}" in found:
                    raise InputError.about(f"{thing}, id", "every picture once", f"{picture} twice")
                found[f"{picture}/{n}"] = name
        return found
    raise InputError.about(name_of(gt), "a COCO-format or Osprey file", show(value))
