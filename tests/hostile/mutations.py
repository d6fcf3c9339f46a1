"""Ways in which a file of a checkpoint can be broken: by an accident, or by somebody who means it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VALUES: list[Any] = [
    None, True, -1, 0, 1.5, 10**9, 10**30, float("nan"), "", "x", "owner/name", "../../etc",
    [], [[]], [1], {}, {"a": 1},
]  # fmt: skip
KEYS = ("auto_map", "attn_implementation", "quantization_config", "tokenizer_class", "dtype", "chat_template")


def break_file(file: Path, seed: int) -> None:
    """Change a file in a way that the seed alone decides."""
    draw = random.Random(seed)
    chance = draw.random()
    if chance < 0.05:
        file.unlink()
    elif chance < 0.1:
        file.write_bytes(b"\xff\xfe\x80" * 50)
    elif file.suffix == ".json":
        file.write_text(_json(file.read_text(encoding="utf-8"), draw), encoding="utf-8")
    elif file.suffix == ".safetensors":
        file.write_bytes(_safetensors(file.read_bytes(), draw))
    else:
        end = draw.choice([b"{% for", b"{{ x.__class__ }}", b"", b"{% endfor %}"])
        file.write_bytes(file.read_bytes()[: draw.randrange(50)] + end)


def _json(text: str, draw: random.Random) -> str:
    chance = draw.random()
    if chance < 0.1:
        return text[: draw.randrange(len(text))]
    if chance < 0.15:
        return draw.choice(["", "null", "[]", "{}", "5", "[" * 100_000, '"x"', "\ufeff{}"])
    value = json.loads(text)
    *way, last = draw.choice(list(_places(value)))
    inner = value
    for key in way:
        inner = inner[key]
    if draw.random() < 0.25:
        del inner[last]
    else:
        inner[last] = draw.choice(VALUES)
    if draw.random() < 0.2:
        value[draw.choice(KEYS)] = draw.choice(VALUES)
    return json.dumps(value)


def _places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if way:
        yield way
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(len(value), 3)):
            yield from _places(value[key], (*way, key))


def _safetensors(data: bytes, draw: random.Random) -> bytes:
    length, chance = int.from_bytes(data[:8], "little"), draw.random()
    if chance < 0.2:
        return data[: draw.randrange(len(data))]
    if chance < 0.3:
        claimed = draw.choice([0, 1, length - 1, length + 1, 2**63, 2**64 - 1, 10**6])
        return claimed.to_bytes(8, "little") + data[8:]
    if chance < 0.5:
        flipped = bytearray(data)
        flipped[8 + draw.randrange(length)] = draw.randrange(256)
        return bytes(flipped)
    header = json.loads(data[8 : 8 + length])
    name = draw.choice([key for key in header if key != "__metadata__"])
    if draw.random() < 0.2:
        del header[name]
    else:
        odd = [*VALUES, "I8", "F64", "BF16", [2, 2], [0, 8], [-8, 0], [2**62, 2**63], [10**6, 0]]
        header[name][draw.choice(["dtype", "shape", "data_offsets"])] = draw.choice(odd)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
