"""Caption files and the concepts in them: COCO's layout, tables, nouns; RegionCLIP reads both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from data_recipes import captions, concepts, runner
from data_recipes.captioned import Captioned
from data_recipes.concepts import concept_pool, nouns
from rgpt.errors import InputError
from rgpt.train.recognizers.records import Captions


def coco_file(folder: Path) -> Path:
    """Two pictures, their captions in any order, one blank, one of a picture that is not there."""
    path = folder / "captions.json"
    said = [
        (2, "A dog."),
        (1, "Two  cats\non a mat."),
        (2, "  "),
        (9, "Who knows."),
        (2, "A dog runs."),
        (2, "A dog."),
    ]
    value = {
        "images": [{"id": n, "file_name": f"{n:012d}.jpg", "width": 8, "height": 8} for n in (1, 2, 3)],
        "annotations": [{"id": i, "image_id": n, "caption": text} for i, (n, text) in enumerate(said)],
    }
    path.write_text(json.dumps(value))
    return path


def test_captions_of_a_picture_come_together(convert, tmp_path: Path) -> None:
    out = convert("captions", "--annotations", coco_file(tmp_path), "--images", tmp_path / "pictures")
    said = {item.id: item.captions for item in out.captions}
    assert said == {"coco-1": ("Two cats on a mat.",), "coco-2": ("A dog.", "A dog runs.")}
    assert out.captions[0].image.resolve() == (tmp_path / "pictures/000000000001.jpg").resolve()
    assert out.report["dropped"] == {captions.NO_CAPTION: 1, captions.NO_FILE: 1}
    assert out.report["repaired"] == {captions.BLANK: 1}


def test_pictures_of_evaluation_stay_out(convert, tmp_path: Path) -> None:
    """The guard knows COCO's pictures by number, whatever file they are listed with."""
    excluded = tmp_path / "eval.txt"
    excluded.write_text("coco:2\n")
    out = convert(
        "captions", "--annotations", coco_file(tmp_path), "--images", "p", "--exclude-images", excluded
    )
    assert [item.id for item in out.captions] == ["coco-1"]


@pytest.mark.parametrize(("ending", "comma"), [(".tsv", "\t"), (".csv", ",")])
def test_a_table(convert, tmp_path: Path, ending: str, comma: str) -> None:
    table = tmp_path / f"cc3m{ending}"
    table.write_text(
        comma.join(("title", "filepath")) + "\n" + comma.join(("a grey watch", "00/1.jpg")) + "\n"
    )
    out = convert("captions", "--table", table, "--images", tmp_path)
    assert [(item.id, item.captions) for item in out.captions] == [("table-1", ("a grey watch",))]


def test_a_table_without_the_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "cc3m.tsv"
    table.write_text("caption\turl\nx\ty\n")
    arguments = ["--table", str(table), "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    assert runner.main(captions.RECIPE, arguments) == 2
    assert "expected the column filepath, got columns caption, url" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "value",
    [{}, [], {"id": "1", "image": "a.jpg", "captions": []}, {"id": "1", "image": "", "captions": ["x"]}],
)
def test_wrong_records_are_refused(value: object) -> None:
    with pytest.raises(InputError, match="caption record"):
        Captioned.from_json(value)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man rides a horse on the beach.", "man horse beach"),
        ("Two dogs run past an old red barn.", "dog barn"),
        ("A black and white cat sitting on a bench", "cat bench"),
        ("people standing in front of a bathroom mirror", "people bathroom mirror"),
        ("a building", "building"),
        ("The man is holding an umbrella", "man umbrella"),
        ("a knife, a cutting board with an orange", "knife board orange"),
        ("Wow! 3 SUITCASES", "wow suitcase"),
        ("", ""),
        ("去", ""),
    ],
)
def test_nouns(caption: str, expected: str) -> None:
    assert " ".join(noun for noun in nouns(caption) if noun != "front") == expected


def test_a_pool_counts_captions_not_words() -> None:
    said = ["a dog and a dog and a dog", "a cat", "a cat", "a bird"]
    assert concept_pool(said, 1) == [("cat", 2), ("bird", 1), ("dog", 1)]
    assert concept_pool(said, 2) == [("cat", 2)]


def test_the_commonest_things_of_coco(shared_data: Path, tmp_path: Path) -> None:
    """Of 5,000 real captions: the most frequent nouns are things; colours and deeds are not in the upper
    half."""
    said = json.loads((shared_data / "captions_coco1000/gts.json").read_text())
    pool = [noun for noun, _ in concept_pool((text for own in said.values() for text in own), 10)]
    assert {"man", "woman", "field", "people", "street", "table"} <= set(pool[:10])
    assert not {"sitting", "standing", "holding", "white", "black", "red", "large", "two"} & set(
        pool[: len(pool) // 2]
    )


def test_from_captions_to_what_regionclip_learns_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recipe, concepts, training data: three rooms, one file."""
    for n in (1, 2, 3):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / f"{n:012d}.jpg")
    out, names = tmp_path / "out", tmp_path / "concepts.txt"
    given = ["--annotations", str(coco_file(tmp_path)), "--images", str(tmp_path), "--out", str(out)]
    assert runner.main(captions.RECIPE, given) == 0
    assert concepts.main([str(out / "captions.jsonl"), "--at-least", "1", "--out", str(names)]) == 0
    assert names.read_text().split() == ["dog", "cat", "mat"]
    source = Captions(str(out / "captions.jsonl"))
    assert source[0].caption == "Two cats on a mat."
    assert "3 concepts (dog 2, cat 1, mat 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("at_least", "text", "message"),
    [("0", "", "--at-least"), ("9", "", "lower --at-least"), ("1", '{"id": 3}\n', "record 1")],
)
def test_concepts_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], at_least: str, text: str, message: str
) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(text or '{"id": "1", "image": "1.jpg", "captions": ["a dog"]}\n')
    assert concepts.main([str(path), "--at-least", at_least, "--out", str(tmp_path / "c.txt")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "c.txt").exists()
