"""Which parameters of a request an endpoint does not take, read from the body of its refusal.

OpenAI and vLLM name them in `param`, pydantic's servers in `loc`, others only in a sentence of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

STATUSES = (400, 422, 500, 501)
"""500: a Python server that was handed a keyword argument it does not know."""
LIMITS = ("max_tokens", "max_completion_tokens")

_NOT_TAKEN = re.compile(
    r"unsupported|n[o']t support|unknown|unrecogni[sz]ed|unexpected|extraneous|extra (?:inputs|fields|keys)"
    r"|n[o']t (?:permitted|allowed|available|accepted|enabled|valid|implemented|recogni[sz]ed|used)"
    r"|cannot find|only (?:the default|\S+ is (?:supported|allowed))|deprecated"
    r"|must be (?:strictly positive|1\b)|invalid (?:parameter|argument|field)",
    re.IGNORECASE,
)
_OUT_OF_RANGE = re.compile(
    r"too (?:large|small|high|low|long|many)|at (?:most|least)|maximum|minimum|exceed|greater|less than"
    r"|range",
    re.IGNORECASE,
)
_ECHOED = ("input", "ctx", "url", "body", "request")


def refused_parameters(sent: Collection[str], status: int, body: str) -> list[str]:
    """Those of the optional parameters `sent` that the refusal `body` of HTTP `status` is about.

    A limit on the answer's tokens counts only where it is said to be unknown: one that is too large for the
    context is a fault of that request. None when the refusal is about the messages or the model.
    """
    if status not in STATUSES:
        return []
    named, texts = set[str](), list[str]()
    try:
        _collect(json.loads(body), named, texts)
    except (ValueError, RecursionError):
        texts.append(body)
    text = " ".join(texts)
    if any(re.match(r"(messages|model)\b", name) for name in named):
        return []
    said = _NOT_TAKEN.search(text) is not None
    found = [name for name in sent if name in named and (said or name not in LIMITS)]
    if not found and said:
        found = [name for name in sent if re.search(rf"(?<!\w)(?:{name}|{_camel(name)})(?!\w)", text)]
    if not found and "max_tokens" in sent and re.search(r"\buse \W?max_completion_tokens\b", text):
        found = ["max_tokens"]  # told by its other name alone
    return [name for name in found if name not in LIMITS or not _OUT_OF_RANGE.search(text)]


def _collect(value: Any, named: set[str], texts: list[str], key: str = "") -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in _ECHOED:
                _collect(inner, named, texts, name)
    elif isinstance(value, list):
        for inner in value:
            _collect(inner, named, texts, key)
    elif isinstance(value, str):
        if key in ("param", "parameter", "field", "loc"):
            named.add(value.rpartition(".")[2] if not value.startswith("messages") else value)
        else:
            texts.append(value)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
