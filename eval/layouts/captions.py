"""Reference captions and generated ones, in every layout they are published in.

Either side becomes `{id: …}` with ids as strings. What an id is depends on the file: the picture (COCO
captions), the ref (RefCOCO), the annotation (Google RefExp), the region (Visual Genome), the line (plain
text).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.layouts.files import PathOrValue, name_of, read_json, read_text, row_name, show
from eval.layouts.rows import are_rows, check_unique, predictions_file, read_rows
from rgpt.errors import InputError
from rgpt.formats.plain_pickle import read_plain_pickle

RESULT_KEYS = (
    ("image_id", "caption"),
    ("ref_id", "sent"),
    ("annotation_id", "generated_refexp"),
    ("question_id", "text"),
)
REFERENCE_KEYS = (("image_id", "caption"), ("ann_id", "refexp"), ("id", "caption"))


def read_references(source: Any, split: str | None = None) -> dict[str, list[str]]:
    """References by id, in file order.

    Reads COCO caption files, `{id: [references]}`, `refs(….).p` (the raw sentences of each ref), Google
    RefExp files, Visual Genome's `region_descriptions.json`, lists of `{ann_id, refexp}`, and plain text, one
    or several files whose lines belong together.

    Args:
        split: of a file that holds several (refs); refused where the file has none.

    Raises:
        InputError: another layout, an unknown split, an item without a reference.
    """
    found, name = _read(source, split)
    for id_, listed in found.items():
        if not listed or not all(isinstance(text, str) and text.strip() for text in listed):
            raise InputError.about(f"{name}, id {id_}", "references of words", show(listed))
    return found


def _read(source: Any, split: str | None) -> tuple[dict[str, list[str]], str]:
    """References, and what messages call their file."""
    files = source if isinstance(source, list) else [source]
    if files and all(isinstance(path, str | Path) for path in files):
        if len(files) > 1 or Path(files[0]).suffix == ".txt":
            return _parallel_lines([Path(path) for path in files]), ", ".join(map(str, files))
        source = files[0]
    name = name_of(source)
    if isinstance(source, str | Path) and Path(source).suffix in (".p", ".pkl", ".pickle"):
        value = read_plain_pickle(source)
    else:
        value = read_json(source)
    if _are_refs(value):
        return _from_refs(value, split, name), name
    if split is not None:
        raise InputError.about(f"{name}, split", "none (the file holds one)", repr(split), "leave it out")
    return _from_value(value, name), name


def _are_refs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(ref, Mapping) and {"ref_id", "sentences", "split"} <= set(ref) for ref in value
    )


def _from_refs(refs: list[Any], split: str | None, name: str) -> dict[str, list[str]]:
    splits = sorted({ref["split"] for ref in refs})
    if split is not None and split not in splits:
        raise InputError.about(f"{name}, split", f"one of {', '.join(splits)}", repr(split))
    check_unique((str(ref["ref_id"]) for ref in refs), name, "ref_id")
    return {
        str(ref["ref_id"]): [sentence["raw"] for sentence in ref["sentences"]]
        for ref in refs
        if split in (None, ref["split"])
    }


def _from_value(value: Any, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if isinstance(value, Mapping) and {"annotations", "refexps"} <= set(value):  # Google RefExp
        expressions = value["refexps"]
        return {
            str(id_): [expressions[str(e)]["raw"] for e in annotation["refexp_ids"]]
            for id_, annotation in value["annotations"].items()
        }
    if isinstance(value, Mapping) and isinstance(value.get("annotations"), list):  # COCO captions
        value = value["annotations"]
    elif isinstance(value, Mapping):
        return {str(k): [v] if isinstance(v, str) else list(v) for k, v in value.items()}
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        if all("regions" in row for row in value):  # Visual Genome
            regions = [region for row in value for region in row["regions"] if region["phrase"].strip()]
            check_unique((str(region["region_id"]) for region in regions), name, "region_id")
            return {str(region["region_id"]): [region["phrase"]] for region in regions}
        for id_key, text_key in REFERENCE_KEYS:
            if all({id_key, text_key} <= set(row) for row in value):
                for row in value:
                    found.setdefault(str(row[id_key]), []).append(row[text_key])
                return found
    raise InputError.about(name, "reference captions", show(value), "eval/README.md shows the layouts")


def _parallel_lines(files: list[Path]) -> dict[str, list[str]]:
    texts = [_lines(path) for path in files]
    for path, lines in zip(files, texts, strict=True):
        if len(lines) != len(texts[0]):
            raise InputError.about(
                str(path),
                f"{len(texts[0])} lines as in {files[0]}",
                str(len(lines)),
                "line n of all files must belong together",
            )
    return {str(n): list(line) for n, line in enumerate(zip(*texts, strict=True), start=1)}


def _lines(path: Path) -> list[str]:
    return read_text(path).removesuffix("\n").split("\n")


def read_hypotheses(source: PathOrValue) -> tuple[dict[str, str], dict[str, str]]:
    """Generated captions by id, and why items failed by id (their caption is the empty string).

    Reads our rows, COCO caption results, `{id: caption}` or `{id: [caption]}`, RefCOCO's
    `{"predictions": [{ref_id, sent}]}`, Google's `[{annotation_id, generated_refexp}]`, and plain text.

    Raises:
        InputError: another layout, an id twice, a caption that is no string.
    """
    source = predictions_file(source)
    if isinstance(source, str | Path) and Path(source).suffix == ".txt":
        return {str(n): line for n, line in enumerate(_lines(Path(source)), start=1)}, {}
    value = read_json(source)
    if are_rows(value):
        rows = read_rows(value, source)
        return {r.id: r.answer for r in rows}, {r.id: r.failed for r in rows if r.failed}
    if isinstance(value, Mapping) and isinstance(value.get("predictions"), list):
        value = value["predictions"]
    if isinstance(value, Mapping):
        pairs = [(str(k), v[0] if isinstance(v, list) and len(v) == 1 else v) for k, v in value.items()]
    else:
        pairs = _pairs(value, source)
    for index, (id_, caption) in enumerate(pairs):
        if not isinstance(caption, str):
            raise InputError.about(f"{row_name(source, index)}, id {id_}", "one caption", show(caption))
    check_unique((id_ for id_, _ in pairs), source)
    return dict(pairs), {}


def _pairs(value: Any, source: PathOrValue) -> list[tuple[str, Any]]:
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        for id_key, text_key in RESULT_KEYS:
            if all({id_key, text_key} <= set(row) for row in value):
                return [(str(row[id_key]), row[text_key]) for row in value]
    raise InputError.about(
        name_of(source), "generated captions", show(value), "eval/README.md shows the layouts"
    )
