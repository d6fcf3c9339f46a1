"""A run killed again and again, on an endpoint that fails in every way: nothing lost, nothing twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from data_recipes.recap.__main__ import STOPPED, main
from data_recipes.recap.state import State
from rgpt.journal import read_journal
from tests.data_recipes.recap.conftest import make_input
from tests.data_recipes.recap.fake_endpoint import FAULTS, IMAGE_TOKENS, TIMEOUT, FakeEndpoint

# Most requests go well, or nothing would ever be finished; every fault is drawn in a run.
SHARES = dict.fromkeys(FAULTS, 0.03)
PICTURES, REGIONS = 12, 8


def killed_run(arguments: list[str], endpoint: FakeEndpoint, rng: random.Random) -> bool:
    """Run until a random number of requests arrived, then SIGKILL. False when the run had ended by itself."""
    context = multiprocessing.get_context("forkserver")
    # Imported once, in the process that the runs are forked from.
    context.set_forkserver_preload(["openai", "data_recipes.recap.__main__"])
    run = context.Process(target=main, args=(arguments,))
    until = len(endpoint.requests) + rng.randint(1, 14)
    run.start()
    while run.is_alive() and len(endpoint.requests) < until:
        time.sleep(0.002)
    time.sleep(rng.random() * 0.05)
    run.kill()
    run.join()
    killed = run.exitcode == -9
    run.close()
    return killed


def lines_of(journal: Path) -> bytes:
    """The journal's whole lines."""
    data = journal.read_bytes() if journal.exists() else b""
    return data[: data.rfind(b"\n") + 1]


def spent_by(journal: Path) -> State:
    state = State()
    for record in list(read_journal(journal))[1:]:
        state.replay(record)
    return state


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random(tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TQDM_DISABLE", "1")
    rng = random.Random(kills)
    source = make_input(tmp_path, PICTURES, REGIONS)
    out = tmp_path / "out"
    journal = out / "journal-1-of-1.jsonl"
    with FakeEndpoint(SHARES, seed=kills) as endpoint:
        arguments = [
            *("run", str(source), "--backend", f"openai:fake@{endpoint.url}", "--out", str(out)),
            *("--rephrasings", "1", "--max-tokens", "60", "--concurrency", "4", "--timeout", str(TIMEOUT)),
            *("--backoff", "0.01", "--price", "1", "2", "--image-tokens", str(IMAGE_TOKENS)),
        ]
        budget = 0.02  # money; far less than the whole needs
        done = 0
        while done < kills:
            before = lines_of(journal)
            if killed_run([*arguments, "--budget", str(budget)], endpoint, rng):
                done += 1
            else:  # the budget ended it: it may not have spent more, and a later run may have more
                assert spent_by(journal).spent.money <= budget
                budget += 0.02
            assert lines_of(journal).startswith(before)
            assert endpoint.money <= budget
        while (code := main([*arguments, "--budget", str(budget)])) == STOPPED:
            assert endpoint.money <= budget
            budget += 0.02
        assert code == 0
    print(f"{kills} kills, {len(endpoint.requests)} requests, charged {endpoint.money:.6f}", endpoint.seen)
    state = spent_by(journal)
    print(f"booked {state.spent.money:.6f}, budget {budget:.2f}; {len(state.finished)} regions")
    assert endpoint.money <= state.spent.money <= budget
    finished = Counter(record["id"] for record in read_journal(journal) if record["kind"] == "region")
    expected = {f"record-{p}#{r}" for p in range(PICTURES) for r in range(1, REGIONS + 1)}
    assert set(finished) == expected and set(finished.values()) == {1}
    assert state.statuses == {"ok": len(expected)}
    every = {fault for fault in FAULTS if endpoint.seen[fault]}
    assert len(every) >= 7, "the run was too short to meet the endpoint's faults"
    # What was paid for and reached the journal was not asked again.
    answered = Counter(record["key"] for record in read_journal(journal) if record["kind"] == "answer")
    assert set(answered.values()) == {1}
    # Nothing that was lost passed as a caption: every text came from the endpoint whole.
    for record in read_journal(journal):
        if record["kind"] == "region":
            assert record["caption"].endswith("rather small."), record
            assert [text.endswith("rather small.") for text in record["rephrasings"]] == [True]


def test_a_region_is_on_the_disk_before_the_next_begins(tmp_path: Path) -> None:
    source, out = make_input(tmp_path, 2, 5), tmp_path / "out"
    journal = out / "journal-1-of-1.jsonl"
    seen: list[tuple[int, int]] = []

    def look(question: str) -> None:
        if "close-up" in question or "crop" in question or "this part" in question:
            lines = [json.loads(line) for line in journal.read_bytes().splitlines()]
            seen.append((len(seen), sum(line["kind"] == "region" for line in lines)))

    with FakeEndpoint(on_request=look) as endpoint:
        arguments = ["--backend", f"openai:fake@{endpoint.url}", "--out", str(out), "--concurrency", "1"]
        assert main(["run", str(source), *arguments]) == 0
    assert seen == [(n, n) for n in range(10)]
