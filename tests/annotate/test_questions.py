"""What can be asked, and the schemas that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rgpt.annotate.questions import make_questions, read_schema
from rgpt.errors import InputError


def schema(folder: Path, value: Any) -> Path:
    path = folder / "schema.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_property_is_a_question(tmp_path: Path) -> None:
    path = schema(
        tmp_path,
        {
            "type": "object",
            "properties": {
                "fur_colour": {"enum": ["red", "blue"]},
                "legs": {"enum": [2, 4], "description": "How many legs has <region>?"},
                "asleep": {"type": "boolean"},
                "remark": {"type": "string", "title": "mood"},
            },
        },
    )
    colour, legs, asleep, remark = read_schema(path)
    assert colour.text == "What is the fur colour of <region1>?" and colour.choices == ("red", "blue")
    assert legs.text == "How many legs has <region1>?" and legs.value("4") == 4
    assert asleep.text == "Is <region1> asleep?" and asleep.value("Yes.") is True
    assert remark.text == "What is the mood of <region1>?" and not remark.choices


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{", "a JSON Schema"),
        ("[]", "an object with properties"),
        ({}, "an object with properties"),
        ({"properties": {}}, "an object with properties"),
        ({"type": "array", "properties": {"a": {"type": "string"}}}, "an object with properties"),
        ({"properties": {"a": {"type": "integer"}}}, "list its values as enum"),
        ({"properties": {"a": {"type": "object", "properties": {}}}}, "properties; leave it out"),
        ({"properties": {"a": {"$ref": "#/x"}}}, "leave it out"),
        ({"properties": {"a": {"enum": []}}}, "a list of texts or numbers"),
        ({"properties": {"a": {"enum": [None]}}}, "a list of texts or numbers"),
        ({"properties": {"a": {"enum": [1, "1"]}}}, "every value once"),
        ({"properties": {"a": True}}, "an enum of texts or numbers"),
        ({"properties": {"name": {"type": "string"}}}, "rename it"),
        ({"properties": {"a": {"type": "string"}}, "allOf": []}, "leave it out"),
    ],
)
def test_a_schema_that_is_none(tmp_path: Path, value: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_schema(schema(tmp_path, value))


def test_what_is_asked() -> None:
    found = make_questions(
        ["name", "Is <region> new?", "Who made <region1>?", "name"], ["cat", "cat ", "dog"]
    )
    assert [(q.key, q.text, q.choices) for q in found] == [
        ("name", "What is <region1>?", ("cat", "dog")),
        ("answer", "Is <region1> new?", ()),
        ("answer_2", "Who made <region1>?", ()),
    ]
    (guided,) = make_questions(["name"], ["cat"], vocabulary="COCO-80")
    assert guided.text.endswith("Answer the question using COCO-80 category names.")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ([], "ask something"),
        (["colour"], "mentions <region>"),
        (["What is <region2>?"], "another region"),
        (["attributes"], "give both"),
        (["name"], "give them as --names"),
    ],
)
def test_what_cannot_be_asked(asked: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        make_questions(asked)
