"""What stands beside an answer, so that it is read for what it is worth."""

from __future__ import annotations

import re
from collections.abc import Mapping

SURE = 0.5
"""The share of the likeliest name from which on an answer counts as sure."""
TOLD = 3

ONLY_DRAWN = "On a photograph this means nothing: the model has seen drawn scenes only."


def tell_shares(answer: str, shares: Mapping[str, float]) -> str:
    """The likeliest names with their shares, such as "dog 87%, cat 5%, horse 2%"; "" for no shares.

    After "Not sure:" where no name has half of it, or the answer says something else than the likeliest one.

    Args:
        shares: of `ChatSession.name_shares`, the likeliest first.
    """
    if not shares:
        return ""
    likeliest, share = next(iter(shares.items()))
    told = ", ".join(f"{name} {_percent(value)}" for name, value in list(shares.items())[:TOLD])
    # As a word: "a carrot" does not say "car".
    said = re.search(rf"\b{re.escape(likeliest)}(e?s)?\b", answer, re.IGNORECASE)
    sure = share >= SURE and said is not None
    return told if sure else f"Not sure: {told}"


def _percent(share: float) -> str:
    return "<1%" if share < 0.005 else ">99%" if share > 0.995 else f"{share:.0%}"
