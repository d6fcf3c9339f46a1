"""Captions: layouts, the tokeniser against pycocoevalcap's wrapper, an oracle and a constant, no Java."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.layouts.captions import read_hypotheses, read_references
from eval.metrics.captions import require_java, tokenise
from eval.score import main, score_task
from rgpt.errors import InputError

java = pytest.mark.skipif(shutil.which("java") is None, reason="needs a Java runtime")

TRUTH = {
    "1": ["A red dog runs on the grass.", "The dog that is red"],
    "2": ["Two cats sleep on a blue sofa."],
    "3": ["The man on the left holds an umbrella."],
}


@java
def test_an_oracle_and_a_constant() -> None:
    """A caption equal to a reference has BLEU, METEOR, ROUGE-L of one; without a shared word, none."""
    oracle = score_task("region_captioning", TRUTH, {i: v[0].upper() for i, v in TRUTH.items()})
    for name in ("Bleu_1", "Bleu_4", "METEOR", "ROUGE_L"):
        assert oracle[name] == pytest.approx(1, abs=1e-6), name
    assert oracle["items"]["2"]["CIDEr"] == pytest.approx(10), "one reference, said word for word"
    assert (oracle["n"], oracle["ids"]) == (3, ["1", "2", "3"])
    constant = score_task("region_captioning", TRUTH, dict.fromkeys(TRUTH, "zebras everywhere"))
    for name in ("Bleu_4", "METEOR", "ROUGE_L", "CIDEr"):
        assert constant[name] == pytest.approx(0, abs=1e-3), name


@java
def test_order_changes_nothing_and_a_failed_item_costs_an_empty_caption() -> None:
    rows: list[dict[str, Any]] = [
        {"id": "1", "answer": "a dog on grass"}, {"id": "2", "answer": "cats on a sofa"}, {"id": "3",
    "failed": "x"}, ]  # fmt: skip
    scores = score_task("region_captioning", TRUTH, rows)
    assert score_task("region_captioning", TRUTH, rows[::-1]) == scores
    assert scores["failed"] == 1 and scores["items"]["3"] == {"CIDEr": 0, "METEOR": 0, "ROUGE_L": 0}


@java
def test_tokens_are_those_of_pycocoevalcap(shared_data: Path) -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    path = shared_data / "captions_coco1000" / "captions_val2014_fakecap_results.json"
    sentences = [row["caption"] for row in json.loads(path.read_text())[:200]]
    sentences += read_text_of_regions(shared_data)
    captions = {n: [text] for n, text in enumerate(sentences)}
    theirs = PTBTokenizer().tokenize({n: [{"caption": text} for text in v] for n, v in captions.items()})
    assert tokenise(captions) == theirs


def read_text_of_regions(shared_data: Path) -> list[str]:
    listed = read_references(shared_data / "visual_genome" / "region_descriptions.head.json")
    return [texts[0] for texts in list(listed.values())[:200]]


@java
def test_no_caption_slips_to_another_id() -> None:
    """Line breaks of every kind, empty captions, letters of any alphabet and commas keep their place."""
    captions = {
        "a": ["one\u2028two", ""],
        "b": ["  "],
        "c": ["un café, à l’heure\r\nplus", "Dog."],
        "d": [""],
    }
    assert tokenise(captions) == {
        "a": ["one two", ""], "b": [""], "c": ["un café à l’heure plus", "dog"], "d": [""],
    }  # fmt: skip


def test_without_java_the_hint_comes_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (require_java, lambda: score_task("region_captioning", "no such file", "nor this one")):
        with pytest.raises(InputError, match=r"Java runtime.*openjdk"):
            call()
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\necho no JAVA_HOME >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(InputError, match="no JAVA_HOME"):
        require_java()


# --------------------------------------------------------------------------------------------------- layouts

REFERENCES: list[tuple[Any, dict[str, list[str]]]] = [
    (
        {"annotations": [{"image_id": 7, "id": 1, "caption": "a"}, {"image_id": 7, "id": 2, "caption": "b"}]},
        {"7": ["a", "b"]},
    ),
    ({"7": ["a", "b"], "8": "c"}, {"7": ["a", "b"], "8": ["c"]}),
    ([{"regions": [{"region_id": 5, "phrase": "the dog "}], "id": 1}], {"5": ["the dog "]}),
    ([{"ann_id": 3, "refexp": "left one"}, {"ann_id": 3, "refexp": "dog"}], {"3": ["left one", "dog"]}),
    (
        {"annotations": {"3": {"refexp_ids": [1]}}, "refexps": {"1": {"raw": "left"}}, "images": {}},
        {"3": ["left"]},
    ),
]


@pytest.mark.parametrize("value, expected", REFERENCES)
def test_reference_layouts(value: Any, expected: dict[str, list[str]]) -> None:
    assert read_references(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        [{"id": "7", "answer": "a dog", "raw_answer": "A dog."}],
        [{"image_id": 7, "caption": "a dog"}],
        {"7": "a dog"},
        {"7": ["a dog"]},
        {"predictions": [{"ref_id": 7, "sent": "a dog"}]},
        [{"annotation_id": 7, "generated_refexp": "a dog"}],
    ],
)
def test_hypothesis_layouts(value: Any) -> None:
    assert read_hypotheses(value) == ({"7": "a dog"}, {})


def test_refs_files_and_splits(tmp_path: Path) -> None:
    refs = [
        {"ref_id": n, "split": split, "sentences": [{"raw": f"Dog {n}"}, {"raw": "it"}]}
        for n, split in enumerate(("train", "val", "val"))
    ]
    path = tmp_path / "refs(umd).p"
    path.write_bytes(pickle.dumps(refs, protocol=2))
    assert read_references(path, "val") == {"1": ["Dog 1", "it"], "2": ["Dog 2", "it"]}
    assert len(read_references(path)) == 3
    with pytest.raises(InputError, match="one of train, val"):
        read_references(path, "test")
    path.write_bytes(pickle.dumps(random.Random(1)))
    with pytest.raises(InputError, match="lists, dicts"):
        read_references(path)


def test_parallel_text_files(tmp_path: Path) -> None:
    for name, text in (("a.txt", "one\n \n"), ("b.txt", "eins\nzwei\n"), ("c.txt", "uno\ndos\ntres")):
        (tmp_path / name).write_text(text)
    assert read_references([tmp_path / "b.txt"]) == {"1": ["eins"], "2": ["zwei"]}
    with pytest.raises(InputError, match="2 lines as in"):
        read_references([tmp_path / "b.txt", tmp_path / "c.txt"])
    with pytest.raises(InputError, match="id 2: expected references of words"):
        read_references([tmp_path / "a.txt", tmp_path / "b.txt"])


@java
def test_the_id_list_is_written_beside_the_score(tmp_path: Path) -> None:
    (tmp_path / "gt.json").write_text(json.dumps(TRUTH))
    (tmp_path / "said.json").write_text(json.dumps({"1": "a dog", "3": "a man"}))
    files = ["--gt", str(tmp_path / "gt.json"), "--predictions", str(tmp_path / "said.json")]
    assert (
        main(["region_captioning", *files, "--subset", "--json", str(tmp_path / "out" / "scores.json")]) == 0
    )
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert json.loads((tmp_path / "out" / scores["ids_file"]).read_text()) == ["1", "3"]
    assert "ids" not in scores and len(scores["ids_sha256"]) == 64 and scores["n"] == 2
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["scores.ids.json", "scores.json"]
