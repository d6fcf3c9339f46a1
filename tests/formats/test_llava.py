"""LLaVA's JSON as people write it: three doors, one reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_recipes import llava_instruct
from data_recipes.runner import main
from data_recipes.validate import validate
from rgpt.data.sample_files import SampleFile
from rgpt.data.schema import read_jsonl
from rgpt.formats.llava import Unusable, has_image_mark, read_llava


def talk(*messages: tuple[str, Any], **more: Any) -> dict[str, Any]:
    """A record; `messages` are (speaker, text)."""
    return {"id": "x", "conversations": [{"from": who, "value": text} for who, text in messages], **more}


Q, A = ("human", "<image>\nWhat is it?"), ("gpt", "A cup.")
PLAIN = ("human", "What is two plus two?"), ("gpt", "Four.")
SEEN, TOLD = (("What is it?", "A cup."),), (("What is two plus two?", "Four."),)

READ = {
    "as published": (talk(Q, A, image="a.png"), SEEN),
    "the assistant begins": (talk(("gpt", "Hello."), *PLAIN), TOLD),
    "a system text first": (talk(("system", "Be brief."), Q, A, image="a.png"), SEEN),
    "ends with a human": (talk(*PLAIN, ("human", "Thanks")), TOLD),
    "two questions in a row": (talk(("human", "Hm"), *PLAIN), TOLD),
    "the mark in a later turn": (talk(("human", "Hi"), ("gpt", "Hello."), Q, A, image="a.png"),
                                 (("Hi", "Hello."), *SEEN)),
    "the mark behind": (talk(("human", "What is it?\n<image>"), A, image="a.png"), SEEN),
    "the mark nowhere": (talk(("human", "What is it?"), A, image="a.png"), SEEN),
    "an id that is a number": (talk(Q, A, image="a.png", id=7), SEEN),
    "no id": ({k: v for k, v in talk(Q, A, image="a.png").items() if k != "id"}, SEEN),
    "id null": (talk(Q, A, image="a.png", id=None), SEEN),
    "a list of one picture": (talk(Q, A, image=["a.png"]), SEEN),
    "pictures under images": (talk(Q, A, images=["a.png"]), SEEN),
    "an empty picture": (talk(*PLAIN, image=""), TOLD),
    "a blank picture": (talk(*PLAIN, image=[" "]), TOLD),
    "an empty list of pictures": (talk(*PLAIN, image=[]), TOLD),
    "no picture": (talk(*PLAIN, image=None), TOLD),
    "user and assistant": (talk(("user", Q[1]), ("assistant", A[1]), image="a.png"), SEEN),
    "capitals": (talk(("Human", Q[1]), ("GPT", A[1]), image="a.png"), SEEN),
    "role and content": ({"conversations": [{"role": "user", "content": Q[1]},
                                            {"role": "assistant", "content": A[1]}], "image": "a.png"}, SEEN),
    "messages": ({"messages": [{"role": "user", "content": Q[1]},
                               {"role": "assistant", "content": A[1]}], "images": ["a.png"]}, SEEN),
    "an answer that is a number": (talk(("human", "<image>\nHow many?"), ("gpt", 3), image="a.png"),
                                   (("How many?", "3"),)),
    "image as a word": (talk(("human", "What is the <image> tag in SVG?"), ("gpt", "The <image> element.")),
                        (("What is the <image> tag in SVG?", "The <image> element."),)),
}  # fmt: skip


@pytest.mark.parametrize(("record", "turns"), READ.values(), ids=READ.keys())
def test_recipe_training_and_validate_read_the_same(
    tmp_path: Path, record: dict[str, Any], turns: tuple[tuple[str, str], ...]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file = tmp_path / "x.json"
    file.write_text(json.dumps([talk(Q, A, image="a.png"), record]))
    pictured = turns[-1][0] in ("What is it?", "How many?")
    assert read_llava(record)[1:3] == ("a.png" if pictured else None, turns)
    trained = SampleFile(file)
    assert len(trained) == 2 and trained[1].turns == turns and (trained[1].image is not None) == pictured
    arguments = ["--annotations", str(file), "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(llava_instruct.RECIPE, arguments) == 0
    made = list(read_jsonl(tmp_path / "out" / "samples.jsonl"))
    assert [s.turns for s in made] == [trained[0].turns, turns]
    assert (made[1].image is not None) == pictured
    for path in (file, tmp_path / "out" / "samples.jsonl"):
        found = validate(path)
        assert (found.samples, found.problems) == (2, {}), found.examples


def test_what_is_left_out_is_noted() -> None:
    record = talk(("system", "Be brief."), ("gpt", "Hello."), *PLAIN, ("human", "Thanks"), image="a.png")
    assert read_llava(record).notes == {
        "words before the first question left out": 2,
        "question without an answer left out": 1,
        "picture without <image>: asked about it all the same": 1,
    }


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (talk(Q, A), "<image> without a picture"),
        (talk(("human", "What is it? <image>"), A), "<image> without a picture"),
        (talk(Q, A, image=["a.png", "b.png"]), "more than one picture"),
        (talk(("human", "<image> or <image>?"), A, image="a.png"), "more than one <image>"),
        (talk(Q, ("gpt", None), image="a.png"), "no question with an answer"),
        (talk(Q, ("gpt", True), image="a.png"), "no question with an answer"),
        (talk(Q, ("bob", "A cup."), image="a.png"), "no question with an answer"),
        (talk(*PLAIN, video="a.mp4"), "a video"),
        (talk(Q, A, image={"path": "a.png"}), "a picture that is no path"),
        (talk(("human", "What is <region1>?"), A, image="a.png"), "text with a region's mark"),
        ({"conversations": {}}, "no conversation"),
        ("words", "no conversation"),
    ],
)
def test_what_cannot_be_read_has_its_reason(record: Any, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        read_llava(record)
    assert caught.value.reason == reason and reason in str(caught.value)


def test_a_mark_is_told_from_a_word() -> None:
    assert all(
        map(has_image_mark, ["<image>", "<image> hi", "hi <image>", "hi\n<image>\nyou", " <image>\nhi"])
    )
    assert not any(map(has_image_mark, ["the <image> tag", "images", "", "the\n<image> tag"]))
