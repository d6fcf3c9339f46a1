"""How many tokens a sample becomes, and a histogram of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rgpt.data.schema import Sample

BINS = 12
BAR = 40


def length_counter(model: str) -> tuple[Callable[[Sequence[Sample]], list[int]], int | None]:
    """(a function that counts the tokens of samples, the model's longest prompt).

    The conversation is rendered by the model's own template, mentions are written as it writes them, and the
    picture counts as the tokens that it becomes. No picture is opened and no weights are used.

    Raises InputError when there is no such model.
    """
    # Imported here: `--no-tokens` and `--help` need no torch.
    from rgpt.data.dataset import messages_of
    from rgpt.model.conversation import expand_mentions
    from rgpt.model.loading import open_processor

    processor: Any = open_processor(model)

    def count(samples: Sequence[Sample]) -> list[int]:
        rendered = processor.apply_chat_template([messages_of(sample) for sample in samples])
        texts = [expand_mentions(text, processor.mention)[0] for text in rendered]
        tokens = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        pictures = [sample.image is not None for sample in samples]
        return [
            len(ids) + shown * (processor.image_tokens - 1)
            for ids, shown in zip(tokens, pictures, strict=True)
        ]

    return count, processor.max_length


def quantiles(lengths: Counter[int]) -> str:
    """Smallest, median, 95th percentile, largest and mean of counted lengths."""
    total, reached = sum(lengths.values()), 0
    found: dict[float, int] = {}
    for length in sorted(lengths):
        reached += lengths[length]
        for share in (0.5, 0.95):
            if reached >= share * total:
                found.setdefault(share, length)
    mean = sum(length * count for length, count in lengths.items()) / total
    return f"{min(lengths)} to {max(lengths)}, median {found[0.5]}, 95 % up to {found[0.95]}, mean {mean:.1f}"


def histogram(lengths: Counter[int], max_length: int | None) -> list[str]:
    """Lines of bars; lengths beyond `max_length` are marked."""
    low, high = min(lengths), max(lengths)
    width = max(1, -(-(high - low + 1) // BINS))
    bins: Counter[int] = Counter()
    for length, count in lengths.items():
        bins[(length - low) // width] += count
    most = max(bins.values())
    lines = []
    for place in range((high - low) // width + 1):
        first = low + place * width
        last = first + width - 1
        bar = "█" * -(-bins[place] * BAR // most)
        mark = "  too long" if max_length is not None and first > max_length else ""
        lines.append(f"{first:>7}–{last:<7}{bins[place]:>9}  {bar}{mark}".rstrip())
    return lines
