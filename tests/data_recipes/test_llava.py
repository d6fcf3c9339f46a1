"""LLaVA's files: <image> before or after the text or nowhere, records without a picture, odd speakers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_the_real_first_records_of_pretrain(convert, shared_data: Path) -> None:
    path = shared_data / "llava/blip_laion_cc_sbu_558k.sample.json"
    out = convert("llava_pretrain", "--annotations", path, "--images", "images")
    assert [tuple(s.turns[0]) for s in out.samples] == [
        (
            "Render a clear and concise summary of the photo.",  # <image> stood behind it
            "select luxury furniture 3 - inch gel memory foam mattress topper",
        ),
        ("Write a terse but informative summary of the picture.", "a grey watch with an army style strap"),
    ]
    assert out.samples[0].image.as_posix().endswith("images/00453/004539375.jpg")
    assert out.report["tasks"] == {"picture_caption": 2}


def test_the_real_records_of_instruct(convert, shared_data: Path) -> None:
    path = shared_data / "llava/llava_instruct.sample.json"
    out = convert("llava_instruct", "--annotations", path, "--images", "data")
    raw = json.loads(path.read_text())
    for sample, entry in zip(out.samples, raw, strict=True):
        told = [message["value"].replace("<image>", "").strip() for message in entry["conversations"]]
        assert [text for turn in sample.turns for text in turn] == told
        assert sample.image.as_posix().endswith("data/" + entry["image"])
    assert [len(s.turns) for s in out.samples] == [3, 1]


def human(text: Any) -> dict:
    return {"from": "human", "value": text}


def gpt(text: Any) -> dict:
    return {"from": "gpt", "value": text}


def record(*messages: dict, **more: Any) -> dict:
    return {"id": "x", "conversations": list(messages), **more}


@pytest.mark.parametrize(
    ("entry", "turns", "repaired"),
    [
        (record(human("<image>\nq"), gpt("a"), image="coco/1.jpg"), [("q", "a")], {}),
        (record(human("q\n<image>"), gpt("a"), image="coco/1.jpg"), [("q", "a")], {}),
        (record(human("q"), gpt("a")), [("q", "a")], {}),  # text only
        (record(human("q"), gpt("a"), image=None), [("q", "a")], {}),
        (
            record(human("q"), gpt("a"), image="coco/1.jpg"),
            [("q", "a")],
            {"picture without <image>: asked about it all the same": 1},
        ),
        (record(human("q"), gpt("a"), human("r")), [("q", "a")], {"question without an answer left out": 1}),
        (
            record(gpt("hello"), human("q"), gpt("a")),
            [("q", "a")],
            {"words before the first question left out": 1},
        ),
        (record(human("q"), human("r"), gpt("a")), [("r", "a")], {"question without an answer left out": 1}),
    ],
)
def test_conversations_are_paired(convert, tmp_path: Path, entry: dict, turns: list, repaired: dict) -> None:
    (tmp_path / "x.json").write_text(json.dumps([entry]))
    out = convert("llava_instruct", "--annotations", tmp_path / "x.json", "--images", tmp_path)
    (sample,) = out.samples
    assert [tuple(turn) for turn in sample.turns] == turns and out.report["repaired"] == repaired
    assert (sample.image is None) == (not entry.get("image")) and not sample.regions


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (record(human("<image>\nq"), gpt("a")), "<image> without a picture"),
        (record(human("<image> <image> q"), gpt("a"), image="1.jpg"), "more than one <image>"),
        (record(human("<image>\nq"), gpt("see <image>"), image="1.jpg"), "more than one <image>"),
        (record(human("what is <region1>?"), gpt("a"), image="1.jpg"), "text with a region's mark"),
        (record(human("q"), gpt(" ")), "no question with an answer"),
        (record(human("<image>"), gpt("a"), image="1.jpg"), "no question with an answer"),
        (record(human("q")), "no question with an answer"),
        (record(human(None), gpt("a")), "no question with an answer"),
        (record(human("q"), gpt("a"), video="v.mp4"), "a video"),
        (record(human("<image>\nq"), gpt("a"), image=["1.jpg", "2.jpg"]), "more than one picture"),
        ({"id": "x"}, "no conversation"),
        ([], "no conversation"),
    ],
)
def test_what_cannot_be_used_is_named(convert, tmp_path: Path, entry: Any, reason: str) -> None:
    good = record(human("q"), gpt("a"))
    (tmp_path / "x.json").write_text(json.dumps([good, entry, good]))
    out = convert("llava_instruct", "--annotations", tmp_path / "x.json", "--images", tmp_path)
    assert out.report["dropped"] == {reason: 1} and len(out.samples) == 2
    assert len({sample.id for sample in out.samples}) == 2  # though both records are called x


def test_the_guard_knows_whose_pictures_they_are(convert, tmp_path: Path) -> None:
    names = [
        "coco/train2017/000000000042.jpg",
        "gqa/images/7.jpg",
        "vg/VG_100K_2/7.jpg",
        "ocr_vqa/images/7.jpg",
    ]
    entries = [record(human("q"), gpt("a"), image=name) for name in [*names, "000000000042.jpg"]]
    (tmp_path / "x.json").write_text(json.dumps(entries))
    (tmp_path / "eval.txt").write_text("coco:42\nvg:7\n")
    out = convert(
        "llava_instruct", "--annotations", tmp_path / "x.json", "--images", tmp_path,
        "--exclude-images", tmp_path / "eval.txt",
    )  # fmt: skip
    assert [s.image.parent.parent.name for s in out.samples] == ["ocr_vqa"]
    assert out.report["dropped"] == {"in --exclude-images": 4}


def test_lines_instead_of_a_list(convert, tmp_path: Path) -> None:
    lines = [json.dumps(record(human(f"q {n}"), gpt("a"))) for n in range(3)]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    out = convert("llava_pretrain", "--annotations", tmp_path / "x.jsonl", "--images", tmp_path)
    assert [s.turns[0].question for s in out.samples] == ["q 0", "q 1", "q 2"]
