"""Attacks on `rgpt serve` and on files: refused in one sentence or done, within memory, others answered."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.session import Conversation, Picture, decoded
from app.visits import ByTicket, Ticket, Visits
from rgpt.errors import InputError
from rgpt.formats.size_claims import read_header
from rgpt.regions import Box, Polygon, Scribble, open_image, region_weights
from rgpt.serve.store import Store
from rgpt.serve.workers import TooLong, Workers
from scripts.attacks import ATTACKS, body, gif_of_comments, jpeg_of_scans, png, saved, zigzag
from scripts.bench_hostile import tree_mib
from tests.serve.conftest import Process, fake_server, tiny_server  # noqa: F401
from tests.serve.fakes import FakeLog, endless
from tests.serve.fakes import body as small_body

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
# The rest is for `python -m scripts.bench hostile`: each of these is a kind of its own.
SENT = [
    "16 corners on 25,000,000 x 1",
    "4,000 corners across",
    "a polygon of huge numbers",
    "64 boxes on 25 megapixels",
    "a mask of huge runs",
    "a JPEG of a thousand scans",
    "a GIF of comments",
    "a PNG of empty chunks",
    "25 megapixels of 16 bits and alpha",
    "a TIFF of 60,000 large tags",
    "an icon",
    "JSON in JSON",
    "a number of a million digits",
    "fields nobody reads",
]


@pytest.mark.parametrize("attack", SENT)
def test_an_attack_is_refused_or_done_and_others_are_answered(tiny_server: Process, attack: str) -> None:  # noqa: F811
    content, question = ATTACKS[attack](), body(png(64, 48))
    largest, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            largest[0] = max(largest[0], tree_mib(tiny_server.process.pid))

    with httpx.Client(base_url=tiny_server.url, timeout=120) as client:
        assert client.post(CHAT, content=question, headers=JSON).status_code == 200
        before = tree_mib(tiny_server.process.pid)
        watcher = threading.Thread(target=watch)
        watcher.start()
        answer = client.post(CHAT, content=content, headers=JSON)
        assert client.post(CHAT, content=question, headers=JSON).status_code == 200
        done.set()
        watcher.join()
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    if answer.status_code != 200:
        message = answer.json()["error"]["message"]
        assert message.endswith(".") and "\n" not in message and "Traceback" not in message
    assert largest[0] - before < 500
    assert tiny_server.process.poll() is None


def test_leaving_ends_the_process_that_decodes(
    fake_server: Callable[..., str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request keeps its place until no work is done for it, and that is soon."""
    from rgpt.serve import opening

    url = fake_server(FakeLog(), max_running=1, max_waiting=0, decode_seconds=60.0)
    started = fake_server.service  # type: ignore[attr-defined]
    slow = Workers()
    monkeypatch.setattr(started.opener, "workers", slow)
    assert opening.shared_workers() is not slow
    # Forty scans of 25 megapixels: within the limits, and work enough to be met in the middle of it.
    content = body(jpeg_of_scans(40))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url + CHAT, content=content, headers=JSON, timeout=httpx.Timeout(30, read=0.3))
    until = time.monotonic() + 30
    while started.slots.entered and time.monotonic() < until:
        time.sleep(0.02)
    assert started.slots.entered == started.slots.running == 0
    assert httpx.post(url + CHAT, json=small_body(), timeout=60).status_code == 200


def test_limits_of_a_job() -> None:
    workers = Workers()
    kinds: list[tuple[tuple[Any, ...], str, type[Exception]]] = [
        (("time:sleep", "no number"), "damaged", InputError),
        (("builtins:sum", range(10**12)), "more than 0.3 seconds of work", TooLong),
        (("builtins:bytes", 10**11), "too much memory", InputError),
        (("os:_exit", 3), "gave up", InputError),
    ]
    for (function, argument), words, kind in kinds:
        task = workers.submit(function, argument, thing="It", slow=False, seconds=0.3, memory=2**28)
        with pytest.raises(kind, match=words):
            task.future.result(timeout=60)
    good = workers.submit(
        "rgpt.serve.decoding:decode", png(4, 3), 100, thing="It", slow=False, seconds=9, memory=2**28
    )
    assert good.future.result(timeout=60)[1][0].shape == (3, 4, 3)


def test_a_request_counts_until_it_leaves(fake_server: Callable[..., str]) -> None:  # noqa: F811
    url = fake_server(FakeLog(endless, pause=0.01), max_bodies_bytes=3 * 2**20)
    large = small_body(user="u" * (2**21 + 2**20), stream=True, max_tokens=100_000)
    with httpx.stream("POST", url + CHAT, json=large, timeout=60) as first:
        assert first.status_code == 200
        lines = first.iter_lines()  # kept: a generator that is dropped closes the connection
        assert next(lines)
        again = httpx.post(url + CHAT, json=large, timeout=60)
        assert (again.status_code, again.json()["error"]["code"]) == (429, "too_many_bytes")
        with httpx.stream("POST", url + CHAT, json=small_body(stream=True), timeout=60) as small:
            assert small.status_code == 200
    until = time.monotonic() + 30
    while (after := httpx.post(url + CHAT, json=large | {"max_tokens": 2}, timeout=60)).status_code != 200:
        assert time.monotonic() < until, after.text


def test_a_client_that_leaves_is_one_line(
    fake_server: Callable[..., str],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = fake_server(FakeLog(endless, pause=0.01))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url + CHAT, json=small_body(max_tokens=10_000), timeout=httpx.Timeout(30, read=0.5))
    until = time.monotonic() + 30
    while not caplog.records and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.2)
    assert len(caplog.records) == 1 and not caplog.records[0].exc_info
    assert "left" in caplog.records[0].getMessage() and "\n" not in caplog.text.strip()


# ------------------------------------------------------------------------------------------- files and shapes

WIDE = 25_000_000


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (Polygon(zigzag(16, WIDE, 1)), (1, WIDE)),
        (Polygon(zigzag(4000, 8000, 6000)), (6000, 8000)),
        (Polygon([[[0, 0], [8000, n], [8000, n + 1]] for n in range(3000)]), (6000, 8000)),
        (Scribble(zigzag(20_000, 5000, 5000), 900), (5000, 5000)),
    ],
)
def test_more_than_a_region_may_be_is_refused_before_any_pixel(shape: Any, size: tuple[int, int]) -> None:
    for use in (shape.check_inside, shape.to_mask, shape.rectangles, shape.bounds):
        with pytest.raises(InputError, match=r"expected .* got .*;"):
            use(*size)


@pytest.mark.parametrize("make", [Polygon, lambda points: Scribble(points, 3)])
def test_a_million_points(make: Any) -> None:
    for points in (np.zeros((1_000_000, 2)), [[[0, 0]] * 3] * 400_000):
        with pytest.raises(InputError, match="at most 100000 points"):
            make(points)


def test_a_large_box_costs_what_a_small_one_costs() -> None:
    """Counted: nothing of the picture's size is made."""
    import tracemalloc

    tracemalloc.start()
    try:
        assert region_weights(Box(0, 0, WIDE, 1), 1, WIDE, 24).sum() > 0
        assert region_weights(Box(5, 5, 9000, 9000), 10_000, 10_000, 24).sum() > 0
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2**31)
    for name, words in (("pipe", "regular file"), ("zero", "regular file"), ("huge", "at most 1073741824")):
        with pytest.raises(InputError, match=words):
            open_image(tmp_path / f"{name}.png")
    assert read_header(tmp_path / "pipe.png") is None and read_header(tmp_path / "zero.png") is None


def test_what_honest_encoders_write_is_taken() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    for kind, options in (
        ("JPEG", {"progressive": True, "restart_marker_blocks": 1, "comment": b"x" * 60_000}),
        ("GIF", {"comment": b"x" * 5000, "save_all": True, "append_images": [image] * 3}),
        ("PNG", {"save_all": True, "append_images": [image] * 3}),
        ("WEBP", {"save_all": True, "append_images": [image] * 3}),
    ):
        seen = np.asarray(open_image(saved(image, kind, **options)), np.int64)  # type: ignore[arg-type]
        assert np.abs(seen - np.asarray(image)).mean() < 60, kind
    plain = Image.new("P", (8, 8), 3)
    assert open_image(gif_of_comments(2_000_000)).size == plain.size


# ------------------------------------------------------------------------------------------ what is kept


def test_one_visitor_cannot_push_out_another() -> None:
    store: Store[int] = Store(10, 1000)
    store.put("mine", 1, 100, "honest")
    for number in range(1000):
        store.put(f"theirs{number}", number, 100, "greedy")
    assert store.get("mine") == 1 and store.bytes == 1000
    store.put("too large", 1, 2000, "honest")
    assert store.get("too large") is None and store.bytes <= 1000
    short: Store[int] = Store(10, 1000, seconds=-1)
    short.put("a", 1, 1)
    assert short.get("a") is None


def test_invented_sessions_keep_tickets_only() -> None:
    visits = Visits(most_bytes=10 * 4 * 100 * 100)

    class Opening:
        def open(self, _: Conversation) -> tuple[str, Conversation]:
            return "shown", Conversation(Picture(Image.new("RGB", (100, 100))))

        def look(self, conversation: Conversation) -> bool:
            return conversation.picture is not None

    do = ByTicket(Opening(), visits)
    tickets = [do.open(Ticket())[1] for _ in range(100)]
    assert {type(ticket) for ticket in tickets} == {Ticket} and all(len(ticket) < 64 for ticket in tickets)
    assert [do.look(ticket) for ticket in tickets].count(True) == 10 and do.look(tickets[-1])


def test_an_upload_is_decoded_within_limits() -> None:
    assert decoded(png(30, 20)).size == (30, 20)
    for data, words in ((jpeg_of_scans(200), "50 scans"), (png(8000, 8000), "at most 50000000 pixels")):
        with pytest.raises(InputError, match=words):
            decoded(data)
