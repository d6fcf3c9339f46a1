"""The prompts and the price, before a cent is spent. No model is opened and nothing is sent or written."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from data_recipes.recap import wordings
from data_recipes.recap.run import Settings
from data_recipes.recap.sources import Record, index_of, read_records
from data_recipes.recap.state import PICTURE, REGION, REPHRASE, State
from rgpt.asking.budget import Cost, Meter
from rgpt.errors import InputError
from rgpt.journal import read_journal
from rgpt.regions import open_image
from rgpt.regions.close_up import close_up, moved, shrunk

SHOWN = 2
SAMPLED = 32
EXPECTED_TOKENS = 130
"""Of an answer: RecapD's captions have 87 words on average [N], about 1.5 tokens each."""
CAPTION = "(the caption of the whole image that stage 1 brings)"
DESCRIPTION = "(the description that stage 2 brings)"


@dataclass
class _Mean:
    total: int = 0
    count: int = 0

    def add(self, value: int) -> None:
        self.total, self.count = self.total + value, self.count + 1

    def __call__(self) -> float:
        return self.total / max(1, self.count)


def dry_run(settings: Settings) -> str:
    """Text for a person: the first prompts of every stage, and what all that is left would take.

    Token counts are measured on the first pictures' prompts and are estimates (`Meter.expected`).
    """
    index = index_of(settings.input, settings.shard)
    state = State()
    if settings.journal.is_file():
        records = read_journal(settings.journal)
        next(records, None)
        for record in records:
            state.replay(record)
    meter = Meter(settings.image_tokens)
    lines: list[str] = []
    means = {stage: _Mean() for stage in (PICTURE, REGION, REPHRASE)}
    for number, record in enumerate(islice(read_records(settings.input, settings.shard), SAMPLED)):
        for stage, key, messages in _prompts(settings, record):
            means[stage].add(meter.expected(messages) + len(CAPTION) // 4)
            if number < SHOWN:
                lines += [f"{key}, about {meter.expected(messages)} tokens", wordings.shown(messages), ""]
    pictures, regions = _left(settings, state)
    count = {PICTURE: pictures, REGION: regions, REPHRASE: regions * settings.rephrasings}
    answer = min(EXPECTED_TOKENS, settings.max_tokens)
    # Stage 2 is told the caption, and a rephrasing the description: texts that are not there yet.
    extra = {PICTURE: 0, REGION: answer if settings.prompt_style == "recapd" else 0, REPHRASE: answer}
    cost, worst = Cost(), Cost()
    lines.append("stage      requests  tokens in a request  tokens of an answer")
    for stage, mean in means.items():
        other = stage == REPHRASE and settings.rephrase_backend
        prices = settings.rephrase_prices if other else settings.prices
        each = mean() + extra[stage]
        cost += prices.of(round(count[stage] * each), count[stage] * answer)
        worst += prices.of(round(count[stage] * each), count[stage] * settings.max_tokens)
        lines.append(f"{stage:<9}{count[stage]:>10}{each:>21.0f}{answer:>21}")
    lines.append(
        f"{index.regions} regions with a name on {index.pictures} pictures (shard {settings.shard}), "
        f"{index.nameless} without one; {len(state.finished)} finished"
    )
    lines.append(f"about {cost.prompt} tokens in and {cost.completion} out, at most {worst.completion} out")
    if settings.prices.prompt or settings.prices.completion:
        lines.append(f"price: about {cost.money:.4f}, with the longest answers {worst.money:.4f}")
    else:
        lines.append("price: give --price IN OUT, the money for a million tokens")
    return "\n".join(lines)


def _left(settings: Settings, state: State) -> tuple[int, int]:
    """Pictures without a caption that are still needed, and regions not finished (of `--limit` pictures)."""
    pictures: set[str] = set()
    needed: set[str] = set()
    regions = 0
    for record in read_records(settings.input, settings.shard):
        if settings.limit is not None and record.key not in pictures and len(pictures) >= settings.limit:
            continue
        pictures.add(record.key)
        left = [target for target in record.targets if target.id not in state.finished]
        regions += len(left)
        if left and f"{PICTURE}:{record.key}" not in state.answers:
            needed.add(record.key)
    return len(needed), regions


def _prompts(settings: Settings, record: Record) -> list[tuple[str, str, wordings.Messages]]:
    """(stage, key, messages) of a record's first region, and of its picture."""
    if not record.targets:
        return []
    try:
        image = open_image(record.image)
        whole = shrunk(image, settings.max_side)
        target = record.targets[0]
        cut = close_up(image, target.region, settings.margin, settings.min_side, settings.max_side)
        region = moved(target.region, image, whole)
    except InputError:
        return []  # the run records it
    style = settings.prompt_style
    key = f"{PICTURE}:{record.key}"
    choice = wordings.number_for(settings.seed, key)
    found = [(PICTURE, key, wordings.picture_question(style, whole, choice))]
    key = f"{REGION}:{target.id}"
    choice = wordings.number_for(settings.seed, key)
    question = wordings.region_question(style, whole, cut, region, CAPTION, target.name, choice)
    found.append((REGION, key, question))
    if settings.rephrasings:
        key = f"{REPHRASE}:{target.id}:1"
        choice = wordings.number_for(settings.seed, key)
        found.append((REPHRASE, key, wordings.rephrase_question(DESCRIPTION, choice)))
    return found
