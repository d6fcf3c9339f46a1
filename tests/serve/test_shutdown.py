"""SIGTERM: answers under way come to their end, or end with an error that says why."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.serve.conftest import Process, serving


@pytest.fixture
def patient() -> Iterator[Process]:
    with serving("-m", "tests.serve.slow_server", "20") as server:
        yield server


@pytest.fixture
def hasty() -> Iterator[Process]:
    with serving("-m", "tests.serve.slow_server", "0.3") as server:
        yield server


def ask(words: int, stream: bool = True) -> dict[str, object]:
    return {
        "model": "slow",
        "messages": [{"role": "user", "content": str(words)}],
        "stream": stream,
        "max_tokens": 10**6,
    }


def term_after_three_chunks(server: Process, words: int) -> list[str]:
    """The lines of a stream in whose middle the server is told to end."""
    lines = []
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=ask(words), timeout=30) as response:
        for line in response.iter_lines():
            if line:
                lines.append(line.removeprefix("data: "))
            if len(lines) == 4:
                server.process.send_signal(signal.SIGTERM)
                lines.append("")
    return [line for line in lines if line]


def test_a_stream_is_finished(patient: Process) -> None:
    waiting: list[httpx.Response] = []

    def ask_beside() -> None:
        url = f"{patient.url}/v1/chat/completions"
        waiting.append(httpx.post(url, json=ask(80, stream=False), timeout=30))

    beside = threading.Thread(target=ask_beside)
    beside.start()
    lines = term_after_three_chunks(patient, 50)
    assert lines[-1] == "[DONE]"
    text = "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines[:-1])
    assert text.split() == [f"word{i}" for i in range(50)]
    beside.join()
    assert waiting[0].json()["choices"][0]["message"]["content"].split()[-1] == "word79"
    assert patient.process.wait(timeout=20) == 0


def test_after_the_grace_a_stream_ends_with_an_error(hasty: Process) -> None:
    lines = term_after_three_chunks(hasty, 10**6)
    assert json.loads(lines[-1])["error"]["code"] == "server_shutting_down"
    assert hasty.process.wait(timeout=20) == 0


def test_who_was_in_line_is_told(hasty: Process) -> None:
    answers: list[httpx.Response] = []

    def ask_one() -> None:
        url = f"{hasty.url}/v1/chat/completions"
        answers.append(httpx.post(url, json=ask(10**6, stream=False), timeout=30))

    threads = [threading.Thread(target=ask_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while httpx.get(f"{hasty.url}/health").json()["waiting"] < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    hasty.process.terminate()
    for thread in threads:
        thread.join()
    codes = [(answer.status_code, answer.json()["error"]["code"]) for answer in answers]
    assert codes == [(503, "server_shutting_down")] * 4
    assert hasty.process.wait(timeout=20) == 0


def test_no_new_connection_is_taken(patient: Process) -> None:
    with httpx.stream("POST", f"{patient.url}/v1/chat/completions", json=ask(150), timeout=30) as response:
        lines = response.iter_lines()
        next(lines)
        patient.process.terminate()
        until = time.monotonic() + 10
        while True:
            try:
                assert httpx.get(f"{patient.url}/health").status_code in (200, 503)
            except httpx.HTTPError:
                break
            assert time.monotonic() < until
            time.sleep(0.05)
        assert list(lines)[-2] == "data: [DONE]"
