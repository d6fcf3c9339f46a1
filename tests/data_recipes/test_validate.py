"""validate: every kind of mistake is found and named by line; lengths are those of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from data_recipes import shapes, validate
from data_recipes.token_lengths import histogram, length_counter, quantiles
from rgpt import prompts
from rgpt.data.schema import read_jsonl
from rgpt.errors import InputError


def sample(number: int, **changes: object) -> dict:
    turn = {"question": "What is <region1>?", "answer": "cat"}
    base = {"id": f"s{number}", "image": "a.png", "regions": [{"box": [1, 2, 8, 9]}], "turns": [turn]}
    return {**base, **changes}


def detection(**changes: object) -> dict:
    base = {"id": "d", "image": "a.png", "width": 20, "height": 10, "regions": [{"box": [1, 2, 8, 9]}]}
    return {**base, "names": ["cat"], **changes}


@pytest.fixture
def check(tmp_path: Path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "bad.png").write_text("no picture")

    def run(*records: object) -> validate.Findings:
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        (tmp_path / "x.jsonl").write_text("\n".join(lines))
        return validate.validate(tmp_path / "x.jsonl")

    return run


def test_good_lines_have_no_problem(check) -> None:
    text_only = {"id": "t", "image": None, "turns": [{"question": "q", "answer": "a b"}]}
    found = check(sample(1), text_only, "", detection())
    assert not found.problems and found.lines == 3
    assert (found.samples, found.detections, found.text_only, found.pictures) == (2, 1, 1, 1)
    assert found.regions == {"box": 2} and found.names == {"cat": 1} and found.turns == 2


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ("{", "not a sample"),
        ("[]", "not a sample"),
        (sample(2, mood="good"), "not a sample"),
        (sample(2, turns=[{"question": "What is <region2>?", "answer": "x"}]), "not a sample"),
        (sample(2, regions=[{"box": [8, 2, 1, 9]}]), "not a sample"),
        (sample(1), "id used twice"),
        (sample(2, image="none.png"), "picture is missing"),
        (sample(2, image="bad.png"), "picture cannot be read"),
        (sample(2, regions=[{"box": [20, 0, 30, 5]}]), "region outside its picture"),
        (sample(2, regions=[{"mask": {"size": [4, 4], "counts": [8, 8]}}]), "region outside its picture"),
        (sample(2, turns=[{"question": "<image> What?", "answer": "x"}]), "<image> in the text"),
        (
            sample(2, turns=[{"question": f"Which? {prompts.REFERRING_GUIDE}", "answer": "Region [4]."}]),
            "answer names no region",
        ),
        (detection(names=["cat", "dog"]), "not a sample"),
        (detection(names=[""]), "not a sample"),
        (detection(width="20"), "not a sample"),
        (detection(width=10, height=20), "size is not the picture's"),
        (detection(regions=[{"box": [0, 10, 5, 12]}]), "region outside its picture"),
    ],
)
def test_every_mistake_is_named_by_its_line(check, record: object, kind: str) -> None:
    found = check(sample(1), record)
    assert found.problems == {kind: 1}
    assert found.examples[0].startswith("2: ") and len(found.examples) == 1


def test_a_region_of_the_unturned_picture_is_a_problem(check, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100)).save(tmp_path / "turned.jpg", exif=exif)
    boxes = [[10, 10, 180, 60], [10, 10, 60, 180], [10, 10, 60, 60], [10, 10, 60, 260]]
    records = [sample(n, image="turned.jpg", regions=[{"box": box}]) for n, box in enumerate(boxes)]
    found = check(*records)
    assert found.problems == {validate.UNTURNED: 1} and found.examples[0].startswith(
        "1: region 1 reaches to (180"
    )
    assert found.notes[validate.REACHES_PAST] == 1


def test_a_region_nobody_mentions_is_a_note(check) -> None:
    found = check(sample(1, regions=[{"box": [1, 2, 8, 9]}] * 2))
    assert not found.problems and found.notes == {validate.UNMENTIONED: 1}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validate") / "shapes"
    shapes.build(7_000_000, 6, out)
    return out / "samples.jsonl"


def test_lengths_are_those_of_the_processor(drawn: Path) -> None:
    """Counted without pictures or weights, equal to what the processor makes of picture and regions."""
    from rgpt.data.dataset import messages_of
    from rgpt.model.loading import TINY
    from rgpt.model.processing_regiongpt import RegionGPTProcessor

    samples = list(read_jsonl(drawn))
    count, context = length_counter("tiny")
    processor = RegionGPTProcessor.from_pretrained(str(TINY))
    assert context == processor.max_length
    for item, counted in zip(samples, count(samples), strict=True):
        whole = processor.encode_chat(messages_of(item), images=Image.open(item.image), regions=item.regions)
        assert counted == whole["input_ids"].shape[-1]


def test_the_command(drawn: Path, tmp_path: Path, capsys) -> None:
    assert validate.main([str(drawn), "--json", str(tmp_path / "f.json")]) == 0
    said = capsys.readouterr().out
    assert "problems   none" in said and "█" in said
    found = json.loads((tmp_path / "f.json").read_text())
    assert sum(found["lengths"].values()) == found["samples"] == found["lines"]
    longest = max(map(int, found["lengths"]))
    assert validate.main([str(drawn), "--max-length", str(longest - 1)]) == 1
    assert "too long" in capsys.readouterr().out
    assert validate.main([str(drawn), "--max-length", str(longest)]) == 0
    assert validate.main([str(drawn), "--model", str(tmp_path)]) == 2
    assert validate.main([str(tmp_path / "none.jsonl")]) == 2
    with pytest.raises(InputError, match="a folder"):
        validate.validate(tmp_path)


def test_histogram_and_quantiles_add_up() -> None:
    from collections import Counter

    lengths = Counter({n: 1 + n % 3 for n in range(50, 250)})
    lines = histogram(lengths, 200)
    assert sum(int(line.split()[1]) for line in lines) == lengths.total()
    assert sum("too long" in line for line in lines) > 0 and "too long" not in lines[0]
    assert quantiles(Counter({1: 1, 2: 1, 3: 98})) == "1 to 3, median 3, 95 % up to 3, mean 3.0"
    assert len(histogram(Counter({7: 3}), None)) == 1
