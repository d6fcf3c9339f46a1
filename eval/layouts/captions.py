"""Reference captions and generated ones, in every layout they are published in.

Either side becomes `{id: …}` with ids as strings. What an id is depends on the file: the picture (COCO
captions), the ref (RefCOCO), the annotation (Google RefExp), the region (Visual Genome), the line (plain
text).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from eval.layouts.fields import Ids, as_object, field_of, has_rows, id_text, list_of, once, words_of
from eval.layouts.files import (
    PathOrValue,
    name_of,
    read_json,
    read_text,
    refuse_lone_surrogates,
    row_name,
    show,
)
from eval.layouts.rows import are_rows, predictions_file, read_rows
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
    value = read_refs(source) if is_pickle(source) else read_json(source)
    if has_rows(value, "ref_id", "sentences"):
        return _from_refs(value, split, name), name
    if split is not None:
        raise InputError.about(f"{name}, split", "none (the file holds one)", repr(split), "leave it out")
    return _from_value(value, name), name


def is_pickle(source: Any) -> bool:
    return isinstance(source, str | Path) and Path(source).suffix in (".p", ".pkl", ".pickle")


def read_refs(source: Path | str) -> Any:
    """The content of `refs(….).p`. Raises InputError."""
    value = read_plain_pickle(Path(source))
    refuse_lone_surrogates(value, str(source))
    return value


def of_split(refs: list[Any], split: str | None, name: str) -> list[tuple[str, Any]]:
    """(what messages call it, ref) of the refs of one split, or of all. Raises InputError."""
    named = [(row_name(name, index), ref) for index, ref in enumerate(refs)]
    splits = sorted({words_of(ref, "split", thing) for thing, ref in named})
    if split is not None and split not in splits:
        raise InputError.about(f"{name}, split", f"one of {', '.join(splits)}", repr(split))
    return [(thing, ref) for thing, ref in named if split in (None, ref["split"])]


def sentences_of(ref: Any, thing: str) -> list[Any]:
    """The sentences of a ref, each with words under `raw`. Raises InputError."""
    listed = list_of(ref, "sentences", thing)
    for n, sentence in enumerate(listed, start=1):
        words_of(sentence, "raw", f"{thing}, sentences {n}")
    if not listed:
        raise InputError.about(f"{thing}, sentences", "at least one", "none")
    return listed


def _from_refs(refs: list[Any], split: str | None, name: str) -> dict[str, list[str]]:
    own = of_split(refs, split, name)
    ids = [id_text(field_of(ref, "ref_id", thing), f"{thing}, ref_id") for thing, ref in own]
    kept = once([ref for _, ref in own], ids, name, "ref_id", "ref_id")
    return {ids[n]: [s["raw"] for s in sentences_of(own[n][1], own[n][0])] for n in kept}


def _from_value(value: Any, name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if isinstance(value, Mapping) and "refexps" in value:  # Google RefExp
        return {
            id_: [words_of(refexps, "raw", f"{thing}, refexp {key}") for key, refexps in pairs]
            for id_, thing, _, pairs in google_expressions(value, name)
        }
    if isinstance(value, Mapping) and isinstance(value.get("annotations"), list):  # COCO captions
        value, name = value["annotations"], f"{name}, annotations"
    elif isinstance(value, Mapping):
        for id_, listed in value.items():
            if not isinstance(listed, str | list):
                raise InputError.about(f"{name}, id {id_}", "references of words", show(listed))
            found[str(id_)] = [listed] if isinstance(listed, str) else listed
        return found
    if has_rows(value, "regions"):  # Visual Genome
        return _from_visual_genome(value, name)
    for id_key, text_key in REFERENCE_KEYS:
        if has_rows(value, id_key, text_key):
            for index, row in enumerate(value):
                thing = row_name(name, index)
                id_ = id_text(field_of(row, id_key, thing), f"{thing}, {id_key}")
                found.setdefault(id_, []).append(words_of(row, text_key, thing))
            return found
    raise InputError.about(name, "reference captions", show(value), "eval/README.md shows the layouts")


def google_expressions(
    value: Mapping[str, Any], name: str
) -> list[tuple[str, str, Mapping[str, Any], list[tuple[str, Any]]]]:
    """(annotation id, what messages call it, annotation, (id, expression) pairs) of a Google RefExp file."""
    annotations = as_object(field_of(value, "annotations", name), f"{name}, annotations")
    expressions = as_object(value["refexps"], f"{name}, refexps")
    found = []
    for id_, annotation in annotations.items():
        thing = f"{name}, annotation {id_}"
        keys = [id_text(v, f"{thing}, refexp_ids") for v in list_of(annotation, "refexp_ids", thing)]
        if missing := [key for key in keys if key not in expressions]:
            raise InputError.about(f"{thing}, refexp_ids", "some of the file's refexps", missing[0])
        pairs = [(key, expressions[key]) for key in keys]
        found.append((str(id_), thing, annotation, pairs))
    return found


def _from_visual_genome(value: list[Any], name: str) -> dict[str, list[str]]:
    listed, ids = [], []
    for index, row in enumerate(value):
        for n, region in enumerate(list_of(row, "regions", row_name(name, index)), start=1):
            thing = f"{row_name(name, index)}, regions {n}"
            if words_of(region, "phrase", thing, empty=True).strip():
                listed.append(region)
                ids.append(id_text(field_of(region, "region_id", thing), f"{thing}, region_id"))
    kept = once(listed, ids, name, "region_id", "region_id")
    return {ids[n]: [listed[n]["phrase"]] for n in kept}


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


def read_hypotheses(
    source: PathOrValue, known: Collection[str] | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Generated captions by id, and why items failed by id (their caption is the empty string).

    Reads our rows, COCO caption results, `{id: caption}` or `{id: [caption]}`, RefCOCO's
    `{"predictions": [{ref_id, sent}]}`, Google's `[{annotation_id, generated_refexp}]`, and plain text.

    Args:
        known: the ids of the references, which these are spelled as.

    Raises:
        InputError: another layout, an id twice, unknown ids, a caption that is no string.
    """
    source = predictions_file(source)
    if isinstance(source, str | Path) and Path(source).suffix == ".txt":
        said = {str(n): line for n, line in enumerate(_lines(Path(source)), start=1)}
        if known is not None:
            Ids(known, "line").find(list(said), source, "line")
        return said, {}
    value = read_json(source)
    if are_rows(value):
        rows = read_rows(value, source, known)
        return {r.id: r.words() for r in rows}, {r.id: r.failed for r in rows if r.failed}
    if isinstance(value, Mapping) and isinstance(value.get("predictions"), list):
        value = value["predictions"]
    if isinstance(value, Mapping):
        ids, key = list(value), "id"
        texts = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in value.values()]
        for id_, text in zip(ids, texts, strict=True):
            if not isinstance(text, str):
                raise InputError.about(f"{name_of(source)}, id {id_}", "one caption", show(text))
        value = [{key: id_, "caption": text} for id_, text in zip(ids, texts, strict=True)]
    else:
        key, text_key = _result_keys(value, source)
        things = [row_name(source, index) for index in range(len(value))]
        ids = [field_of(row, key, thing) for row, thing in zip(value, things, strict=True)]
        texts = [words_of(r, text_key, t, empty=True) for r, t in zip(value, things, strict=True)]
    if known is None:
        ids = [id_text(id_, f"{row_name(source, n)}, {key}") for n, id_ in enumerate(ids)]
    else:
        ids = Ids(known).find(ids, source, key)
    return {ids[n]: texts[n] for n in once(value, ids, source, key=key)}, {}


def _result_keys(value: Any, source: PathOrValue) -> tuple[str, str]:
    for id_key, text_key in RESULT_KEYS:
        if has_rows(value, id_key, text_key):
            return id_key, text_key
    raise InputError.about(
        name_of(source), "generated captions", show(value), "eval/README.md shows the layouts"
    )
