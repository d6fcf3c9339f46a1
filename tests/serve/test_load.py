"""The load script: what it counts as crossed, and a short run against a server of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from scripts.load_serve import Client, Log, load, main, quantile, report
from tests.serve.fakes import FakeLog, body


def client(answer: str, number: int) -> Client:
    request = body(text=f"picture {number} <region1>")
    return Client(request, (answer, "You asked: Where is <region1> relative to <region2>?"))


def run(fake_server: Callable[..., str], words: Any) -> Log:
    """Three clients, each of whom expects to be told the number of his own picture."""
    url = fake_server(FakeLog(words))
    clients = [client(f"You asked: picture {number} <region1>", number) for number in range(3)]
    for each in clients:
        each.request["regions"].append({"id": "region2", "point": [3, 3]})
    return asyncio.run(load(url, clients, 1.5, None))


def test_right_answers_are_counted_as_such(fake_server: Callable[..., str]) -> None:
    log = run(fake_server, None)
    assert log.outcomes["crossed"] == log.outcomes["error"] == 0, log.problems
    assert min(log.outcomes[how] for how in ("plain", "stream", "second", "leave")) > 0


def test_an_answer_to_somebody_else_is_noticed(fake_server: Callable[..., str]) -> None:
    asked: list[str] = []

    def crossed(session: Any, question: str) -> list[str]:
        asked.append(question)
        return ["You asked: ", asked[-3:][0]]

    assert run(fake_server, crossed).outcomes["crossed"] > 0


def test_the_report() -> None:
    log = Log()
    log.outcomes.update(plain=10, crossed=1)
    log.seconds = [0.1] * 9 + [2.0]
    log.resident = [(float(i), 100.0 + i) for i in range(10)]
    lines = "\n".join(report(log, 4, 10))
    assert "11 requests" in lines and "p95 2.000" in lines and "crossed answers: 1" in lines
    assert "102 MiB after 2 s, 109 MiB at the end (+6.9%)" in lines
    assert quantile([3, 1, 2], 0.5) == 2


@pytest.mark.slow
def test_a_short_load(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole figure is `python -m scripts.load_serve --clients 64 --seconds 60`."""
    assert main(["--clients", "24", "--seconds", "15"]) == 0
    assert "crossed answers: 0, errors: 0" in capsys.readouterr().out
