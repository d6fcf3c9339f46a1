"""The concept pool of RegionCLIP: nouns that captions speak of, most frequent first, a name a line.

    python -m data_recipes.concepts captions.jsonl --at-least 100 --out concepts.txt

RegionCLIP parses nouns from the captions of COCO (4,764 concepts) or CC3M [P]. Its parser is not reproduced:
a word counts as a noun by the lexicon of lemminflect and by its place in the phrase. That needs no model and
no download, is wrong now and then ("surf" of "men surf"), and is right often enough that `--at-least` drops
the rest. Plurals count as their singular. The pool is for `model: {concepts: concepts.txt}` of a RegionCLIP
run.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_recipes.captioned import Captioned
from rgpt.errors import InputError
from rgpt.files import write_text
from rgpt.formats.json_stream import read_records

WORDS = re.compile(r"[a-z]+(?:-[a-z]+)*|[.,;:!?]", re.IGNORECASE)
_GRAMMAR = """
will no another other someone something anyone anything everyone everything nothing and or
but nor so yet as at by for from in into near of off on onto out over past through to toward towards
under up down upon with within without behind beside besides between among along across around about
above after against before below beneath beyond during inside outside like than while when where
which who whom whose what there here it he she they we you i him them us me is are was were be been
being am has have had do does did can could would shall should may might must not very too also just
more most many much few several all both one two three four five six seven eight nine ten
"""
_ARTICLES = "a an the this that these those his her its their our your my some any each every"
CLOSED = frozenset(_GRAMMAR.split())
"""Words of grammar; the lexicon has nouns among them ("a can", "the will")."""
ARTICLES = frozenset(_ARTICLES.split())
Parts = dict[str, tuple[str, ...]]


def lemmas(word: str) -> Parts:
    """Parts of speech that a word may be, with its base forms; nothing for words of grammar."""
    import lemminflect

    return {} if word in CLOSED | ARTICLES else lemminflect.getAllLemmas(word)


def nouns(caption: str) -> list[str]:
    """Nouns of a caption in their singular, in the order they stand.

    Of a run of words that may be nouns or adjectives the last one is the head and counts; so does a word
    before it that can be nothing but a noun ("bathroom mirror" gives both). A word that may be a verb ends
    the run after a noun if it is inflected ("a man rides") or the noun is a plural ("dogs run"). One that may
    be an adjective or ends in -ing is no head at the start of a phrase ("white", "sitting"), unless an
    article says so ("an orange", but not "a black and white cat").
    """
    found: list[str] = []
    run: list[tuple[str, Parts]] = []
    opener = ""

    def close(next_word: str = "") -> None:
        while run and "NOUN" not in run[-1][1]:
            run.pop()  # an adjective at the end is no head
        for place, (word, parts) in enumerate(run):
            head = place == len(run) - 1
            doubtful = "ADJ" in parts or ("VERB" in parts and word.endswith("ing"))
            if head and doubtful:
                head = place > 0 or (opener in ARTICLES and next_word not in ("and", "or", ","))
            if "NOUN" in parts and (head or set(parts) == {"NOUN"}):
                found.append(parts["NOUN"][0])
        run.clear()

    previous = ""
    for word in (match.group().lower() for match in WORDS.finditer(caption)):
        parts = lemmas(word)
        if not parts.keys() & {"NOUN", "ADJ"} or (run and _verb_after(*run[-1], word, parts)):
            close(word)
        else:
            opener = opener if run else previous
            run.append((word, parts))
        previous = word
    close()
    return found


def _verb_after(before: str, its_parts: Parts, word: str, parts: Parts) -> bool:
    """Whether `word` is the verb of the noun before it."""
    if "VERB" not in parts or "NOUN" not in its_parts:
        return False
    inflected = word.endswith(("ing", "ed")) or (word.endswith("s") and parts["VERB"][0] != word)
    return inflected or its_parts["NOUN"][0] != before


def concept_pool(captions: Iterable[str], at_least: int) -> list[tuple[str, int]]:
    """(noun, count), most frequent first, equals by the alphabet; a caption counts a noun once."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(set(nouns(caption)))
    kept = [(noun, count) for noun, count in counts.items() if count >= at_least]
    return sorted(kept, key=lambda pair: (-pair[1], pair[0]))


def read_captions(paths: Sequence[Path]) -> Iterator[str]:
    """All captions of files that `data_recipes.captions` wrote."""
    for path in paths:
        for number, value in enumerate(read_records(path), start=1):
            try:
                yield from Captioned.from_json(value, path.parent).captions
            except InputError as error:
                raise InputError(f"{path}, record {number}: {error}") from error


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_recipes.concepts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("captions", type=Path, nargs="+", metavar="FILE", help="captions.jsonl")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the list, a name a line")
    parser.add_argument("--at-least", type=int, default=100, metavar="N", help="captions that say it (100)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """0: the file is written; 2: refused, nothing is."""
    options = build_parser().parse_args(arguments)
    from tqdm import tqdm

    try:
        if options.at_least < 1:
            raise InputError(
                f"--at-least: expected at least 1, got {options.at_least}; give a larger number."
            )
        captions = tqdm(read_captions(options.captions), unit="caption", desc="nouns", disable=None)
        pool = concept_pool(captions, options.at_least)
        if not pool:
            raise InputError(
                f"concepts: expected nouns said by at least {options.at_least} captions, got none; "
                "lower --at-least."
            )
        write_text(options.out, "".join(f"{noun}\n" for noun, _ in pool))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    shown = ", ".join(f"{noun} {count}" for noun, count in pool[:5])
    print(f"{len(pool)} concepts ({shown}, …) are in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
