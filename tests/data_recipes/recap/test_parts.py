"""RecapD's parts: what an answer is worth, the journal, the budget, the pace, the wordings, the input."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_recipes.recap import wordings
from data_recipes.recap.sources import Shard, class_names, index_of, read_records
from rgpt import journal
from rgpt.asking import budget
from rgpt.asking.answers import fingerprint, judge
from rgpt.asking.budget import Budget, BudgetReached, Cost, Meter, Pace, Prices
from rgpt.asking.caller import RetryPolicy
from rgpt.data.schema import Sample
from rgpt.errors import InputError
from rgpt.journal import Journal, read_journal
from rgpt.regions import Box, Mask
from rgpt.regions.close_up import close_up, moved, shrunk
from tests.data_recipes.recap.conftest import make_input

LONG = "A brown dog with a red collar lies on the grass beside a wooden bench, its head on its paws."


@pytest.mark.parametrize(
    ("text", "reason", "status"),
    [
        (LONG, "stop", "ok"),
        ("A sorry-looking teddy bear with one eye.", "stop", "ok"),
        ("The sign reads “I cannot help you”, in red letters.", "stop", "ok"),
        ("It is a white cup. It has a blue rim. It is half full.", "stop", "ok"),
        ("狗躺在草地上。", "stop", "ok"),
        ("", "stop", "empty"),
        (" \n…!", "stop", "empty"),
        ("I'm sorry, but I can't help with that.", "stop", "refused"),
        ("Sorry, there is nothing to see.", "stop", "refused"),
        ("I cannot identify people in images.", "stop", "refused"),
        ("I can’t see any image.", "stop", "refused"),
        ("I am unable to view images.", "stop", "refused"),
        ("Unfortunately, I don't have enough information.", "stop", "refused"),
        ("As an AI language model, I do not see pictures.", "stop", "refused"),
        ("No image was provided.", "stop", "refused"),
        ("Please provide the image you mean.", "stop", "refused"),
        ("", "content_filter", "refused"),
        ("very " * 12, "stop", "repeated"),
        ("哈" * 30, "stop", "repeated"),
        ("The dog is brown. " * 3, "stop", "repeated"),
        ("the dog runs to the left and the dog runs to the right and " * 3, "stop", "repeated"),
        (LONG, "length", "cut"),
        ("The  whole picture", "stop", "repeated"),
        ("HTTP 422", "rejected", "rejected"),
    ],
)
def test_what_an_answer_is_worth(text: str, reason: str, status: str) -> None:
    assert judge(text, reason, {fingerprint("the whole picture.")}).status == status


# ------------------------------------------------------------------------------------------------- journal


def fill(path: Path, numbers: range, header: dict[str, Any] | None = None) -> list[int]:
    """Append numbers, all at once; returns what was there before."""
    before: list[int] = []

    async def run() -> None:
        with Journal(path, header or {"about": "tests"}, lambda r: before.append(r["n"])) as book:
            await asyncio.gather(*(book.append({"kind": "n", "n": n}) for n in numbers))

    asyncio.run(run())
    return before


def numbers_in(path: Path) -> list[int]:
    return [record["n"] for record in read_journal(path) if record["kind"] == "n"]


def test_many_at_once_are_in_order_and_share_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    write = os.write
    monkeypatch.setattr(journal.os, "write", lambda f, data: writes.append(len(data)) or write(f, data))
    path = tmp_path / "j.jsonl"
    assert fill(path, range(100)) == []
    assert numbers_in(path) == list(range(100))
    assert len(writes) < 10, "each line was written and synced alone"
    assert fill(path, range(100, 103)) == list(range(100))
    assert numbers_in(path) == list(range(103))


@pytest.mark.parametrize("cut", [1, 5, 12, 13])
def test_a_torn_last_line_is_cut_off_and_nothing_else(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    fill(path, range(5))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert numbers_in(path) == [0, 1, 2, 3], "reading passes half a line over"
    assert fill(path, range(9, 10)) == [0, 1, 2, 3]
    assert path.read_bytes() == whole[: whole.rindex(b"\n", 0, -1) + 1] + b'{"kind": "n", "n": 9}\n'


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\0" * 70000 + b"\n", b'{"kind": "n", "n": \n', b"7\n"])
def test_what_a_power_cut_leaves_at_the_end(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "j.jsonl"
    fill(path, range(3))
    with open(path, "ab") as stream:
        stream.write(tail)
    assert fill(path, range(3, 4)) == [0, 1, 2]
    assert numbers_in(path) == [0, 1, 2, 3]


def test_a_file_that_is_torn_in_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"kind": "hea')
    assert fill(path, range(2)) == [] and numbers_in(path) == [0, 1]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    fill(path, range(3))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"garbage\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=re.escape(f"{path}:3:")):
        fill(path, range(1))
    assert path.read_bytes() == b"".join(lines), "a refused journal is left as it is"


def test_another_header_and_a_second_writer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    fill(path, range(1), {"seed": 1, "backend": "a"})
    with pytest.raises(InputError, match="seed 1, not 2"):
        fill(path, range(1), {"seed": 2, "backend": "a"})
    with (
        Journal(path, {"seed": 1, "backend": "a"}, lambda _: None),
        pytest.raises(InputError, match="another"),
    ):
        Journal(path, {"seed": 1, "backend": "a"}, lambda _: None)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j.jsonl"
    fill(path, range(3))
    before, write, calls = path.read_bytes(), os.write, iter(range(10))

    def full(file: int, data: bytes) -> int:
        if next(calls):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:7])

    monkeypatch.setattr(journal.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        fill(path, range(3, 4))
    assert path.read_bytes() == before


# ------------------------------------------------------------------------------------------ budget and pace


@pytest.mark.parametrize("seed", range(5))
def test_spending_never_passes_the_limit(seed: int) -> None:
    """Each reserves the most and costs some of it, many at once: the sum stays below, and near, the limit."""
    rng = random.Random(seed)
    prices = Prices(1.0, 4.0)
    purse = Budget(money=0.05, tokens=None)
    refused = 0

    async def spender() -> None:
        nonlocal refused
        try:
            while True:
                most = prices.of(rng.randint(50, 400), 300)
                await purse.reserve(most)
                await asyncio.sleep(0)
                actual = prices.of(rng.randint(0, most.prompt), rng.randint(0, 300))
                await purse.settle(most, actual)
                assert purse.spent.money <= 0.05
        except BudgetReached:
            refused += 1

    async def run() -> None:
        await asyncio.gather(*(spender() for _ in range(8)))

    asyncio.run(run())
    assert refused == 8
    assert 0.05 - prices.of(400, 300).money <= purse.spent.money <= 0.05


def test_a_token_limit_and_what_earlier_runs_spent() -> None:
    async def run() -> None:
        purse = Budget(None, 100, spent=Cost(30, 30))
        await purse.reserve(Cost(20, 20))
        await purse.settle(Cost(20, 20), Cost(10, 0))
        assert purse.spent.tokens == 70
        with pytest.raises(BudgetReached):
            await purse.reserve(Cost(31, 0))
        await purse.reserve(Cost(30, 0))

    asyncio.run(run())


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(budget.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(budget.asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_pace_is_requests_or_tokens_whichever_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    async def run() -> list[float]:
        pace, times = Pace(requests=60, tokens=6000), []
        for tokens in (10, 10, 300, 10):
            await pace.turn(tokens)
            times.append(clock.now - 1000)
        pace.pause(20)
        await pace.turn(1)
        return [*times, clock.now - 1000]

    # one a second; 300 tokens are worth three seconds; a pause holds everybody
    assert asyncio.run(run()) == pytest.approx([0, 1, 2, 5, 25])


def test_waits_grow_and_the_endpoint_decides() -> None:
    policy, rng = RetryPolicy(first=1, longest=10), random.Random(0)
    for attempt, longest in enumerate([1, 2, 4, 8, 10, 10], start=1):
        waits = [policy.wait(attempt, None, rng) for _ in range(50)]
        assert longest / 2 <= min(waits) < max(waits) <= longest
    assert policy.wait(1, 37.5, rng) == 37.5
    assert policy.wait(1, 1e9, rng) == policy.longest_asked


def test_the_meter_bounds_what_it_expects_and_learns() -> None:
    meter, picture = Meter(), Image.new("RGB", (1024, 1024))
    messages = wordings.picture_question("recapd", picture, 0)
    assert 1024 * 1024 // 784 < meter.expected(messages) < meter.bound(messages)
    before = meter.bound(messages)
    meter.learn(before, 2 * before)
    assert meter.bound(messages) > 2 * before
    assert Meter(image_tokens=85).bound(messages) < 250


# ---------------------------------------------------------------------------------- wordings and pictures


def test_ten_wordings_a_stage_and_all_are_asked() -> None:
    for stage, fields in (
        (wordings.PICTURE, []),
        (wordings.REGION, ["caption", "name"]),
        (wordings.REPHRASE, ["text"]),
    ):
        assert len(set(stage)) == len(stage) == 10
        assert all(sorted(set(re.findall(r"{(\w+)}", wording))) == fields for wording in stage)
    image = Image.new("RGB", (20, 20))
    asked = Counter()
    for n in range(300):
        choice = wordings.number_for(0, f"region:{n}")
        (message,) = wordings.region_question(
            "recapd", image, image, Box(0, 0, 5, 5), "A “C”.", "dog", choice
        )
        picture, text = message["content"]
        assert picture["image"] is image and "dog" in text["text"] and 'A "C".' in text["text"]
        asked[text["text"]] += 1
    assert len(asked) == 10 and min(asked.values()) > 10
    assert wordings.number_for(0, "a") == wordings.number_for(0, "a") != wordings.number_for(1, "a")


def test_a_close_up_holds_the_region_with_its_margin() -> None:
    image = Image.new("RGB", (100, 80), "white")
    image.paste("red", (40, 20, 60, 30))
    exact = close_up(image, Box(40, 20, 60, 30), 0)
    assert exact.size == (20, 10) and exact.getcolors() == [(200, (255, 0, 0))]
    wide = close_up(image, Box(40, 20, 60, 30), 0.5)
    assert wide.size == (40, 20) and wide.getpixel((10, 5)) == (255, 0, 0)
    assert close_up(image, Box(90.2, -5, 130, 3.5), 0.1).size == (11, 4), (
        "cut to the picture, rounded outwards"
    )
    assert close_up(image, Box(40, 20, 60, 30), 0, min_side=50).size == (100, 50)
    assert close_up(image, Box(0, 0, 100, 1), 0, min_side=50, max_side=200).size == (200, 2)
    assert close_up(image, Box(0, 0, 100, 80), 0, max_side=50).size == (50, 40)
    with pytest.raises(InputError):
        close_up(image, Box(200, 0, 210, 5), 0.1)


def test_a_region_follows_its_picture_when_that_is_shrunk() -> None:
    image = Image.new("RGB", (200, 100))
    small = shrunk(image, 100)
    assert small.size == (100, 50) and shrunk(image, 200) is image
    assert moved(Box(20, 20, 60, 40), image, small) == Box(10, 10, 30, 20)
    assert moved(Box(20, 20, 60, 40), image, image) == Box(20, 20, 60, 40)


# --------------------------------------------------------------------------------------------------- input


def test_detection_records_and_their_shards(tmp_path: Path) -> None:
    path = make_input(tmp_path, 20, 3, ("baseball_bat", "dog"))
    records = list(read_records(path))
    assert [target.id for target in records[0].targets] == ["record-0#1", "record-0#2", "record-0#3"]
    assert [target.name for target in records[0].targets] == ["baseball bat", "dog", "baseball bat"]
    parts = [{r.id for r in read_records(path, Shard(n, 4))} for n in range(1, 5)]
    assert all(parts) and sum(map(len, parts)) == 20 and set().union(*parts) == {r.id for r in records}
    assert sum(index_of(path, Shard(n, 4)).regions for n in range(1, 5)) == 60


def test_class_names_are_the_bare_answers_to_classification() -> None:
    turns = [
        ("What is <region1>? Answer the question using COCO-80 category names.", "dog"),
        ("And <region2>?", "cat"),
        ("What is <region3>?", "A small red plain circle."),
        ("Describe <region3>.", "circle"),
        ("Which is larger, <region1> or <region2>?", "Region [2]."),
    ]
    regions = [Box(0, 0, 5, 5)] * 3
    sample = Sample("s", Path("p.png"), tuple(regions), tuple(turns))  # type: ignore[arg-type]
    assert class_names(sample) == {1: "dog", 2: "cat"}


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2"])
def test_bad_shards(text: str) -> None:
    with pytest.raises(InputError, match="--shard"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, lines[0]], "given twice"),
        (lambda lines: [lines[0].replace("0.png", "gone.png")], "is not there"),
        (lambda lines: [lines[0], "{"], ":2:"),
        (lambda lines: [lines[0].replace('"names"', '"labels"')], ":1:"),
        (
            lambda lines: [json.dumps({"id": "t", "turns": [{"question": "Hello?", "answer": "Yes."}]})],
            "no region",
        ),
    ],
)
def test_a_bad_input_is_refused_before_any_work(tmp_path: Path, change: Any, message: str) -> None:
    path = make_input(tmp_path, 2, 2)
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(InputError, match=message):
        index_of(path, Shard())


def test_a_mask_is_a_target_too() -> None:
    import numpy as np

    mask = np.zeros((80, 100), bool)
    mask[20:30, 40:60] = True
    assert close_up(Image.new("RGB", (100, 80)), Mask(mask), 0).size == (20, 10)
