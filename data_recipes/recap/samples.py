"""From journals to training samples: the captions, and nothing else, as conversations about regions."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_recipes.output import Report, Reservoir, contact_sheet, new_folder
from data_recipes.recap.clip_score import scores_of
from data_recipes.recap.sources import Shard
from data_recipes.recap.state import journals
from rgpt.asking.answers import OK
from rgpt.data.schema import QuestionAnswer, Sample, write_jsonl
from rgpt.errors import InputError
from rgpt.journal import placed_records, read_journal
from rgpt.prompts import choose_wording, mention
from rgpt.regions import region_from_json

MAX_TURNS = 6
"""Regions in one conversation: six captions of RecapD's length [N] and a picture fit 2048 tokens [D]."""
# Words that mean something else to the model must not stand in what it learns to say.
_PLACEHOLDER = re.compile(r"<(?:image|region\d*|/?s|pad|unk)>|<\|[^|]{1,40}\|>", re.IGNORECASE)


@dataclass(frozen=True)
class SampleSettings:
    """`min_clip`: captions with a lower score are left out; None: no filter. `partial`: unfinished journals
    are allowed."""

    folder: Path
    out: Path
    min_clip: float | None = None
    max_turns: int = MAX_TURNS
    seed: int = 0
    partial: bool = False

    def __post_init__(self) -> None:
        if self.max_turns < 1:
            raise InputError.about("--max-turns", "at least 1", str(self.max_turns), "give a larger number")


def build(settings: SampleSettings) -> Report:
    """Write samples.jsonl, report.json and contact_sheet.png to the new folder `settings.out`.

    Every picture gives one conversation for each `max_turns` captions, and one more for each further wording
    of them. Which wording of the question is asked depends on `seed` and the region's id.

    Raises:
        InputError: without journals, with shards missing or not finished (unless `partial`), with a region in
            two journals, or when captions have no CLIP score although `min_clip` is given.
    """
    paths = journals(settings.folder)
    headers = [next(read_journal(path), {}) for path in paths]
    _check_complete(paths, headers, settings.partial)
    scores = {} if settings.min_clip is None else scores_of(settings.folder)
    report = Report("recap", {"seed": settings.seed, "min_clip": settings.min_clip})
    chosen = Reservoir(settings.seed)
    with new_folder(settings.out) as folder:
        write_jsonl(folder / "samples.jsonl", _samples(settings, paths, scores, report, chosen))
        if not report.kept:
            raise InputError(f"{settings.folder}: there is no caption to train on; see `status`.")
        contact_sheet(chosen.samples).save(folder / "contact_sheet.png")
        report.write(folder / "report.json")
    return report


def _samples(
    settings: SampleSettings,
    paths: list[Path],
    scores: dict[str, float],
    report: Report,
    chosen: Reservoir[Sample],
) -> Iterator[Sample]:
    """Pictures in the order in which their first region was finished. Counts regions into the report."""
    places = _places(paths, report)
    with ExitStack() as stack:
        files = [stack.enter_context(open(path, "rb")) for path in paths]
        for image, some in tqdm(places.items(), desc="writing samples", unit="picture"):
            kept = []
            for _, number, offset in some:
                files[number].seek(offset)
                record = json.loads(files[number].readline())
                if _usable(record, settings, scores, report):
                    kept.append(record)
            for sample in _conversations(settings, image, kept):
                report.keep(sample)
                report.tasks.update(["detailed_caption"] * len(sample.turns))
                chosen.offer(sample)
                yield sample


def _conversations(settings: SampleSettings, image: str, records: list[dict[str, Any]]) -> Iterator[Sample]:
    for start in range(0, len(records), settings.max_turns):
        part = records[start : start + settings.max_turns]
        for version in range(1 + max(len(record["rephrasings"]) for record in part)):
            if (sample := _sample(settings, image, part, version)) is not None:
                yield sample


def _places(paths: list[Path], report: Report) -> dict[str, list[tuple[str, int, int]]]:
    """Picture → (region id, number of the journal, byte offset) of its captions: texts stay on disk.

    Sorted, because workers finish in any order and the samples should not tell.
    """
    places: dict[str, list[tuple[str, int, int]]] = {}
    seen: set[str] = set()
    for number, path in enumerate(paths):
        for offset, record in placed_records(path):
            if record["kind"] != "region":
                continue
            if record["id"] in seen:
                raise InputError(f"{path}: the region {record['id']!r} is finished twice; remove one line.")
            seen.add(record["id"])
            report.regions_read += 1
            if record["status"] == OK:
                places.setdefault(record["image"], []).append((record["id"], number, offset))
            else:
                report.regions_dropped[record["status"]] += 1
    return {image: sorted(some) for image, some in sorted(places.items())}


def _usable(
    record: dict[str, Any], settings: SampleSettings, scores: dict[str, float], report: Report
) -> bool:
    if _PLACEHOLDER.search(record["caption"]):
        report.regions_dropped["a placeholder in the caption"] += 1
        return False
    record["rephrasings"] = [t for t in record.get("rephrasings", []) if not _PLACEHOLDER.search(t)]
    if settings.min_clip is None:
        return True
    if record["id"] not in scores:
        raise InputError(
            f"{settings.folder}: the caption of {record['id']!r} has no CLIP score; run `score` first."
        )
    if scores[record["id"]] < settings.min_clip:
        report.regions_dropped["CLIP score too low"] += 1
        return False
    return True


def _sample(
    settings: SampleSettings, image: str, records: list[dict[str, Any]], version: int
) -> Sample | None:
    """The conversation about `records`; version 0 has the captions, version n the nth other wordings."""
    told = []
    for record in records:
        texts = [record["caption"], *record["rephrasings"]]
        if version < len(texts):
            told.append((record, texts[version]))
    if not told:
        return None
    turns = []
    for number, (record, text) in enumerate(told, start=1):
        rng = random.Random(f"{settings.seed} {record['id']} {version}")
        question = choose_wording("detailed_caption", rng).format(region=mention(number))
        turns.append(QuestionAnswer(question, text))
    suffix = f"-w{version}" if version else ""
    return Sample(
        id=f"recap-{records[0]['id']}{suffix}",
        image=settings.folder / image,
        regions=tuple(region_from_json(record["region"]) for record, _ in told),
        turns=tuple(turns),
    )


def _check_complete(paths: list[Path], headers: list[dict[str, Any]], partial: bool) -> None:
    """InputError when a shard is missing, not finished, or of another run."""
    same = [{k: v for k, v in h.items() if k not in ("shard", "regions")} for h in headers]
    counts = {header.get("shard", "").rpartition("-")[2] for header in headers}
    if any(header != same[0] for header in same) or len(counts) != 1:
        raise InputError(
            f"{paths[0].parent}: the journals are of different runs; keep those of one run in a folder."
        )
    if partial:
        return
    count = int(counts.pop())
    names = {header["shard"] for header in headers}
    if missing := [str(s) for n in range(1, count + 1) if str(s := Shard(n, count)) not in names]:
        raise InputError(
            f"{paths[0].parent}: the journals of shards {', '.join(missing[:5])} are missing; "
            "bring them here, or give --partial."
        )
    for path, header in zip(paths, headers, strict=True):
        done = sum(record["kind"] == "region" for record in read_journal(path))
        if done < header["regions"]:
            raise InputError(
                f"{path}: {done} of {header['regions']} regions are finished; "
                "run it again, or give --partial."
            )


def describe(folder: Path) -> str:
    """What the journals say, as JSON for `status`."""
    from data_recipes.recap.state import State

    shards = {}
    for path in journals(folder):
        records, state = read_journal(path), State()
        header = next(records, {})
        for record in records:
            state.replay(record)
        spent = state.spent
        captions = state.statuses[OK]
        shards[path.name] = {
            "regions": header.get("regions"),
            "finished": len(state.finished),
            "statuses": dict(sorted(state.statuses.items())),
            "failed_attempts": dict(sorted(state.failures.items())),
            "requests": state.requests,
            "parameters_not_taken": state.changed,
            "prompt_tokens": spent.prompt,
            "completion_tokens": spent.completion,
            "money": round(spent.money, 6),
            "words_a_caption": round(state.words / captions, 2) if captions else None,
        }
    return json.dumps(shards, indent=2)
