"""What is asked of every object: a caption, a name, the properties of a schema, questions of one's own.

An answer is either ranked (one of a question's choices, with shares) or written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.prompts import classification_guide, mention, mentioned

CAPTION, NAME, ATTRIBUTES = "caption", "name", "attributes"
YES, NO = "Yes.", "No."
_PLACEHOLDER = re.compile(r"<region1?>")
_OF_SCHEMA = {
    "$schema",
    "$id",
    "title",
    "description",
    "type",
    "properties",
    "required",
    "additionalProperties",
}
_OF_PROPERTY = {"title", "description", "type", "enum"}


@dataclass(frozen=True)
class Question:
    """One question of every object.

    Args:
        key: names its answer in every output.
        kind: `caption`, `name`, `property` or `answer`.
        text: as our models read it, about `<region1>`.
        choices: of a ranked answer, as the model would say them; none for a written one.
        values: what each choice is in outputs; none: the choices themselves.
        plain: what is wanted, for a model that is asked for JSON.
    """

    key: str
    kind: str
    text: str
    choices: tuple[str, ...] = ()
    values: tuple[Any, ...] = ()
    plain: str = ""

    def value(self, choice: str) -> Any:
        """What a choice is in outputs."""
        return (
            dict(zip(self.choices, self.values, strict=True)).get(choice, choice) if self.values else choice
        )

    @property
    def allowed(self) -> tuple[Any, ...]:
        """Every value of a ranked answer."""
        return self.values or self.choices

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make_questions(
    asked: Sequence[str], names: Sequence[str] = (), schema: Path | None = None, vocabulary: str = ""
) -> list[Question]:
    """The questions of `--ask`, each once.

    Args:
        asked: `caption`, `name`, `attributes`, or questions that mention `<region>`.
        names: that objects are named with.
        schema: the file of `attributes`.
        vocabulary: that the model was trained to answer with bare names; "" for none.

    Raises:
        InputError: nothing is asked, a question mentions no region, names or schema are missing or idle.
    """
    asked = list(dict.fromkeys(asked))
    if not asked:
        raise InputError.about("--ask", "caption, name, attributes or a question", "nothing", "ask something")
    if (ATTRIBUTES in asked) != (schema is not None):
        given = "no --schema" if schema is None else "no --ask attributes"
        raise InputError.about("attributes", "--ask attributes with --schema FILE", given, "give both")
    questions: list[Question] = []
    for text in asked:
        if text == CAPTION:
            plain = "a caption of the object, one sentence"
            questions.append(Question(CAPTION, "caption", f"Describe {mention(1)}.", plain=plain))
        elif text == NAME:
            questions.append(_name(names, vocabulary))
        elif text == ATTRIBUTES and schema is not None:
            questions += read_schema(schema)
        else:
            questions.append(_own(text, sum(q.kind == "answer" for q in questions)))
    keys = [q.key for q in questions]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise InputError.about("--schema", "properties of other names", repr(twice), "rename the property")
    return questions


def _name(names: Sequence[str], vocabulary: str) -> Question:
    listed = tuple(dict.fromkeys(name.strip() for name in names))
    if not listed or not all(listed):
        raise InputError.about("--ask name", "names to choose from", "none", "give them as --names FILE")
    guide = f" {classification_guide(vocabulary)}" if vocabulary else ""
    return Question(NAME, "name", f"What is {mention(1)}?{guide}", listed, plain="what the object is")


def _own(text: str, before: int) -> Question:
    question = _PLACEHOLDER.sub(mention(1), text.strip())
    if mentioned(question) != [1] * len(mentioned(question)) or not mentioned(question):
        raise InputError.about(
            f"--ask {text!r}",
            "caption, name, attributes, or a question that mentions <region>",
            "none of them" if not mentioned(question) else "another region",
            'write for example "What is <region> made of?"',
        )
    key = "answer" if not before else f"answer_{before + 1}"
    return Question(key, "answer", question, plain=question.replace(mention(1), "the object"))


def read_schema(path: Path) -> list[Question]:
    """A question for every property of a JSON Schema: an enum or a boolean is ranked, a string written.

    A property's `description` that mentions `<region>` is its question; others get one made of title or name.

    Raises:
        InputError: it is no JSON, no object with properties, or a property is of another kind.
    """
    thing = f"schema {str(path)!r}"
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError.about(thing, "a JSON Schema", " ".join(str(error).split())[:120]) from error
    properties = value.get("properties") if isinstance(value, Mapping) else None
    if not isinstance(properties, Mapping) or not properties or value.get("type", "object") != "object":
        raise InputError.about(
            thing, "an object with properties", "none", 'write {"type": "object", "properties": {…}}'
        )
    _known(value, _OF_SCHEMA, thing)
    return [_property(str(key), said, f"{thing}, property {key!r}") for key, said in properties.items()]


def _known(value: Mapping[str, Any], keys: set[str], thing: str) -> None:
    if unknown := sorted(set(value) - keys):
        raise InputError.about(thing, f"the keys {', '.join(sorted(keys))}", unknown[0], "leave it out")


def _property(key: str, said: Any, thing: str) -> Question:
    kinds = "an enum of texts or numbers, a boolean or a string"
    if not isinstance(said, Mapping):
        raise InputError.about(thing, kinds, repr(said)[:40])
    _known(said, _OF_PROPERTY, thing)
    if not key.strip() or key in (CAPTION, NAME):
        raise InputError.about(thing, "another name", "one that --ask uses", "rename it")
    spoken = str(said.get("title") or key.replace("_", " "))
    description = str(said.get("description") or "")
    own = _PLACEHOLDER.sub(mention(1), description) if _PLACEHOLDER.search(description) else ""
    plain = own.replace(mention(1), "the object") or description or spoken
    if "enum" in said:
        values = said["enum"]
        if not isinstance(values, list) or not values or not all(_is_plain(v) for v in values):
            raise InputError.about(f"{thing}, enum", "a list of texts or numbers", repr(values)[:60])
        choices = tuple(map(str, values))
        if len(set(choices)) < len(choices):
            raise InputError.about(f"{thing}, enum", "every value once", repr(values)[:60])
        return Question(key, "property", own or _what(spoken), choices, tuple(values), plain)
    if said.get("type") == "boolean":
        asked = own or f"Is {mention(1)} {spoken}?"
        return Question(key, "property", asked, (YES, NO), (True, False), plain)
    if said.get("type") != "string":
        raise InputError.about(f"{thing}, type", kinds, repr(said.get("type")), "list its values as enum")
    return Question(key, "property", own or _what(spoken), plain=plain)


def _what(spoken: str) -> str:
    return f"What is the {spoken} of {mention(1)}?"


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and bool(str(value).strip())
