"""Good requests with a few values replaced, without end; the same every time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from scripts.attacks import body, png

_JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 0.5, 39.999, 40, 1e9, -1e9, 1e308, -0.0, 2**31, 2**63, 10**30, float("nan"),
    "", "box", "<region1>", "\ud800", "x" * 5000, [], {}, [[]], [None], {"box": [1, 2, 3, 4]},
    [[0, 0], [9, 9], [9, 0]], {"size": [30, 40], "counts": "0"}, {"size": [1, 1], "counts": [0, 1]},
]  # fmt: skip


def _good() -> Any:
    regions = [
        {"id": "region1", "box": [1, 2, 20, 20]},
        {"id": "region2", "polygon": [[5, 5], [16, 6], [9, 15]]},
        {"id": "region3", "point": [0.8, 0.16], "normalized": True},
        {"id": "region4", "mask": {"size": [30, 40], "counts": [5, 10, 1185]}},
    ]
    return json.loads(
        body(png(40, 30), regions, "<region1> <region2> <region3> <region4>?", temperature=0.5, stop=["."])
    )


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in _places(inner, (*path, key)))]


def damaged(seed: int = 0) -> Iterator[bytes]:
    """Bodies with one to three values replaced, some cut off."""
    rng = random.Random(seed)
    good = _good()
    places = _places(good)[1:]
    while True:
        request = json.loads(json.dumps(good))
        for _ in range(rng.randint(1, 3)):
            *parents, last = rng.choice(places)
            holder = request
            try:
                for key in parents:
                    holder = holder[key]
                holder[last]
            except (KeyError, IndexError, TypeError):
                continue  # replaced before
            if isinstance(holder, dict | list):
                holder[last] = rng.choice(_JUNK)
        text = json.dumps(request).encode()
        yield text if rng.random() > 0.05 else text[: rng.randrange(len(text))]
