"""Samples and their JSONL form: what is written is what is read, and a bad line is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rgpt.data.schema import QuestionAnswer, Sample, read_jsonl, write_jsonl
from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Mask, Point, Polygon, Scribble

SQUARE = np.zeros((6, 8), dtype=bool)
SQUARE[2:4, 3:6] = True
REGIONS = (
    Box(1, 2, 3.5, 4),
    Polygon([(0, 0), (4, 0), (4, 4)]),
    RLE.from_mask(SQUARE),
    RLE.from_mask(SQUARE, compressed=False),
    Point(2, 3),
    Scribble([(0, 0), (5, 5)], 2),
)


def sample(folder: Path, **changes: Any) -> Sample:
    fields = {
        "id": "a",
        "image": folder / "pictures" / "a.png",
        "regions": REGIONS,
        "turns": (("What is <region1>?", "A “cat” – 猫."), ("And <region6>, <region1>?", "Region [6].")),
    }
    return Sample(**{**fields, **changes})


GOOD = {"box": [0, 0, 4, 4]}
LINE = {
    "id": "a",
    "image": "a.png",
    "regions": [GOOD],
    "turns": [{"question": "What is <region1>?", "answer": "cat"}],
}


def line(**changes: Any) -> str:
    return json.dumps({key: value for key, value in {**LINE, **changes}.items() if value is not ...})


def turn(question: Any = "q", answer: Any = "a", **more: Any) -> list[dict[str, Any]]:
    return [{"question": question, "answer": answer, **more}]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    samples = [
        sample(tmp_path),
        sample(tmp_path, id="no regions", regions=(), turns=(("Describe the picture.", "A cat."),)),
        sample(tmp_path, id="text", image=None, regions=(), turns=[["Hello?", "Hello."]]),
    ]
    assert write_jsonl(tmp_path / "s.jsonl", iter(samples)) == 3
    assert list(read_jsonl(tmp_path / "s.jsonl")) == samples
    assert [path.name for path in tmp_path.iterdir()] == ["s.jsonl"]


def test_a_mask_comes_back_as_rle_with_the_same_pixels(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "s.jsonl", [sample(tmp_path, regions=[Mask(SQUARE)], turns=[("q", "a")])])
    (read,) = read_jsonl(tmp_path / "s.jsonl")
    assert np.array_equal(read.regions[0].to_mask(6, 8), SQUARE)


def test_the_folder_can_move(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    write_jsonl(tmp_path / "here" / "s.jsonl", [sample(tmp_path / "here")])
    (tmp_path / "here").rename(tmp_path / "there")
    (read,) = read_jsonl(tmp_path / "there" / "s.jsonl")
    assert read.image == tmp_path / "there" / "pictures" / "a.png"


def test_pictures_elsewhere_are_found_through_links(tmp_path: Path) -> None:
    """The JSONL lies in a linked folder, where a plain `..` would lead to the wrong place."""
    real, pictures = tmp_path / "a" / "b" / "real", tmp_path / "pictures"
    real.mkdir(parents=True)
    pictures.mkdir()
    (pictures / "x.png").write_bytes(b"x")
    (tmp_path / "link").symlink_to(real)
    write_jsonl(tmp_path / "link" / "s.jsonl", [sample(tmp_path, image=pictures / "x.png")])
    (read,) = read_jsonl(tmp_path / "link" / "s.jsonl")
    assert read.image is not None and read.image.read_bytes() == b"x"


def test_turns_are_pairs_with_names(tmp_path: Path) -> None:
    first = sample(tmp_path).turns[0]
    assert first == ("What is <region1>?", "A “cat” – 猫.") and isinstance(first, QuestionAnswer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line: expected one JSON object"),
        (line() + " " + line(), "line: expected one JSON object"),
        ("[" * 100_000, "line: expected one JSON object"),
        ("[]", "sample: expected an object, got list"),
        ("null", "sample: expected an object, got NoneType"),
        (line(picture="a.png"), "got also picture"),
        (line(id=...), "sample: expected the key id"),
        (line(turns=...), "sample: expected the key turns"),
        (line(id=3), "id: expected words, got 3"),
        (line(id=" "), "id: expected words"),
        (line(image=3), "image: expected a path or null, got 3"),
        (line(image=""), "image: expected a path or null"),
        (line(image=None), "regions: expected none without a picture, got 1"),
        (line(regions={"box": [0, 0, 1, 1]}), "regions: expected a list, got dict"),
        (line(regions=[GOOD, {"box": [4, 0, 0, 4]}]), "region 2: box [4, 0, 0, 4]: expected x1 < x2"),
        (line(regions=[{"box": [0, 0, 4, float("nan")]}]), "region 1: box: expected y2 to be a finite"),
        (line(regions=[{"bbox": [0, 0, 4, 4]}]), "region 1: region: expected an object with"),
        (line(regions=[{"mask": {"size": [2, 2], "counts": [3]}}]), "region 1: RLE: expected counts"),
        (line(regions=[{"mask": {"size": [2, 2], "counts": [4]}}]), "region 1: RLE: expected at least one"),
        (line(turns=[]), "turns: expected at least one question"),
        (line(turns={}), "turns: expected a list, got dict"),
        (line(turns=[["q", "a"]]), "turn 1: expected an object with exactly question and answer, got list"),
        (line(turns=[{"question": "q"}]), "turn 1: expected an object with exactly question and answer"),
        (line(turns=turn(from_="human")), "turn 1: expected an object with exactly question and answer"),
        (line(turns=turn() + turn(answer="")), "answer of turn 2: expected words, got ''"),
        (line(turns=turn(question=None)), "question of turn 1: expected words, got None"),
        (line(turns=turn(answer="\ud800")), "answer of turn 1: expected whole characters"),
        (line(turns=turn("<region2>?")), "expected mentions of the sample's 1 regions, got <region2>"),
        (line(turns=turn("<region0>?")), "expected mentions of the sample's 1 regions, got <region0>"),
        (line(turns=turn(answer="<region9>")), "answer of turn 1: expected mentions of"),
        (line(turns=turn("<region" + "9" * 9 + ">")), "question of turn 1: expected mentions"),
        (line(regions=...), "question of turn 1: expected mentions of the sample's 0 regions, got <region1>"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(f"{line(id='good')}\n\n{text}\n", encoding="utf-8")
    reading = read_jsonl(path)
    assert next(reading).id == "good"
    with pytest.raises(InputError) as caught:
        next(reading)
    said = str(caught.value)
    assert said.startswith(f"{path}:3: ") and message in said, said
    assert "\n" not in said and len(said) < 400


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_bytes(line().encode() + b"\n" + line(id="b").encode().replace(b"cat", b"c\xe4t"))
    with pytest.raises(InputError, match=r"s\.jsonl:2: line: expected UTF-8, got the byte 0xe4"):
        list(read_jsonl(path))


def test_byte_order_mark_windows_lines_and_odd_separators_are_read(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    odd = "one\u2028two\x85three"
    text = line() + "\r\n" + json.dumps({**LINE, "turns": turn(odd)}, ensure_ascii=False) + "\r\n \r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [read.turns[0].question for read in read_jsonl(path)] == ["What is <region1>?", odd]


@pytest.mark.parametrize(("name", "found"), [("none.jsonl", "nothing at this path"), (".", "a folder")])
def test_a_missing_file_is_refused_before_the_first_sample(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(InputError, match=f"expected an existing JSONL file, got {found}"):
        read_jsonl(tmp_path / name)


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    write_jsonl(path, [sample(tmp_path)])
    before = path.read_bytes()

    def breaking():
        yield sample(tmp_path, id="new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, breaking())
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["s.jsonl"]


def test_reading_is_streaming(tmp_path: Path) -> None:
    """The first sample is there although a later line is broken, and nothing after it has been looked at."""
    path = tmp_path / "s.jsonl"
    path.write_text(line() + "\nnot json\n")
    assert next(read_jsonl(path)).id == "a"


@pytest.mark.parametrize(
    "changes",
    [
        {"regions": [{"box": [0, 0, 1, 1]}]},
        {"turns": ["qa"]},
        {"turns": [("q",)]},
        {"image": 3},
        {"image": " "},
    ],
)
def test_a_sample_made_in_python_is_checked_too(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        sample(tmp_path, **changes)
