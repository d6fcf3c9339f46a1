"""What an answer is worth: a caption, or a refusal, an empty, a repeated, a cut one. Only captions train."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

from rgpt.files import sha256
from rgpt.prompts import normalise_answer

OK, EMPTY, REFUSED, REPEATED, CUT, REJECTED = "ok", "empty", "refused", "repeated", "cut", "rejected"
NO_CONTEXT, BAD_PICTURE, BAD_REGION = "no_context", "bad_picture", "bad_region"
STATUSES = (OK, EMPTY, REFUSED, REPEATED, CUT, REJECTED, NO_CONTEXT, BAD_PICTURE, BAD_REGION)
"""`rejected`: the endpoint would not take the request. `no_context`: the picture got no caption, so its
regions were not asked about. `bad_picture`, `bad_region`: the picture does not open, the region lies outside
of it."""

# A caption may quote a sign that says "I cannot help": only how an answer begins is looked at.
_REFUSAL = re.compile(
    r"""\W*(?:
        (?:i\s*['’]?\s*a?m\s+|we\s+are\s+|we['’]re\s+)?(?:very\s+|so\s+|really\s+)?sorry\b
      | (?:my\s+)?apolog(?:ies|ize)\b | i\s+apologi[sz]e\b
      | (?:unfortunately\W+)?(?:i|we)\s*(?:['’]m|\s+am|\s+are)\s+(?:unable|not\s+(?:able|allowed))\b
      | (?:unfortunately\W+)?(?:i|we)\s+(?:can(?:no|['’])?\s?t|could(?:\s+not|n['’]t)|won['’]t|will\s+not|
           do(?:\s+not|n['’]t)\s+(?:see|have)|must\s+decline)\b
      | as\s+an?\s+(?:ai|artificial|large|language|text-based|vision)\b
      | i\s*(?:['’]m|\s+am)\s+(?:just\s+)?an?\s+ai\b
      | (?:there\s+is\s+)?no\s+(?:image|picture)\s+(?:was|is|has\s+been|provided|attached|given)\b
      | please\s+(?:provide|upload|share|attach|give)\b
      | it\s+is\s+(?:impossible|not\s+possible)\s+to\s+(?:describe|tell|see|identify)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_LOOP = re.compile(r"(.{1,40}?)\1{7,}", re.DOTALL)
LOOKED_AT = 8000


class Verdict(NamedTuple):
    """`reason` is empty for `ok`."""

    status: str
    reason: str = ""


def fingerprint(text: str) -> bytes:
    """Equal for texts that differ in case, blanks or the closing stop only; eight bytes of a hash."""
    return bytes.fromhex(sha256(normalise_answer(text))[:16])


def judge(text: str, finish_reason: str, others: Collection[bytes] = ()) -> Verdict:
    """Whether `text` is a caption.

    Args:
        others: fingerprints of texts it must not repeat: the picture's caption, captions of the picture's
            other regions.
    """
    if finish_reason == "rejected":
        return Verdict(REJECTED, "the endpoint did not take the request")
    if finish_reason == "content_filter":
        return Verdict(REFUSED, "blocked by the endpoint")
    if not re.search(r"\w", text):
        return Verdict(EMPTY, "no words")
    if _REFUSAL.match(text):
        return Verdict(REFUSED, "declines to describe")
    if reason := repetition(text):
        return Verdict(REPEATED, reason)
    if finish_reason == "length":
        return Verdict(CUT, "longer than the most tokens allowed")
    if fingerprint(text) in others:
        return Verdict(REPEATED, "the same as another text of this picture")
    return Verdict(OK)


def repetition(text: str) -> str:
    """How the text runs in circles, or nothing.

    Either something short eight times in a row, one sentence three times, or (from 20 words on) more than
    half of all three-word sequences said before [D].
    """
    text = text[:LOOKED_AT]
    if _LOOP.search(text):
        return "something short again and again"
    sentences = [normalise_answer(s) for s in re.split(r"[.!?。！？\n]+", text)]
    sentences = [s for s in sentences if len(s.split()) >= 3]
    if any(sentences.count(s) >= 3 for s in set(sentences)):
        return "one sentence three times"
    words = re.findall(r"\w+", text.lower())
    triples = list(zip(words, words[1:], words[2:], strict=False))
    if len(words) >= 20 and 2 * len(set(triples)) < len(triples):
        return "half of it said before"
    return ""
