"""The benchmark of `photo`, run with `tiny`: what it times is there, and what it starts is stopped."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from scripts import bench, bench_photo

SESSION = {
    "first token, new picture",
    "first token, same picture",
    "tokens after the first",
    "16 regions, one by one",
    "16 regions, ask_many",
    "16 regions, the same answers",
}
SERVER = "import http.server, sys; http.server.test(http.server.SimpleHTTPRequestHandler, port={port})"


def test_the_photographs_are_those_of_the_app_and_their_tiles_cover_them() -> None:
    assert len(bench_photo.PHOTOGRAPHS) == 4
    for picture in bench_photo.PHOTOGRAPHS:
        regions = bench_photo.tiles(picture, 4)
        with Image.open(picture) as image:
            assert len(regions) == 16
            assert sum((r.to_mask(image.height, image.width) > 0).sum() for r in regions) == pytest.approx(
                image.width * image.height, rel=0.02
            )


def test_a_session_is_timed() -> None:
    from rgpt.model import load

    figures = list(bench_photo.measure_session(*load("tiny", device="cpu"), repeats=1))
    assert {figure.name for figure in figures} == SESSION
    assert all(min(figure.values) > 0 for figure in figures)
    assert [f.name for f in figures if f.at_most or f.at_least] == [
        "first token, new picture",
        "first token, same picture",
        "tokens after the first",
        "16 regions, the same answers",
    ]


def test_a_server_is_timed_until_it_answers_and_stopped_with_its_children(tmp_path: Path) -> None:
    port = bench_photo.free_port()
    server = f"sleep 0.5; '{sys.executable}' -c '{SERVER.format(port=port)}' & wait"
    started = time.perf_counter()
    assert 0.5 < bench_photo.seconds_to_page(["bash", "-c", server], port) <= time.perf_counter() - started
    assert not bench_photo.answers(port)


@pytest.mark.parametrize(
    ("command", "patience"),
    [("echo no such model >&2; exit 2", 60.0), ("echo no such model >&2; sleep 60", 0.5)],
    ids=["ended", "silent"],
)
def test_a_server_that_serves_nothing_is_an_error(
    command: str, patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_photo, "PATIENCE", patience)
    with pytest.raises(SystemExit, match="no such model"):
        bench_photo.seconds_to_page(["bash", "-c", command], bench_photo.free_port())


@pytest.mark.slow
def test_everything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["photo", "--model", "tiny", "--repeats", "1", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    for name in {"rgpt chat, whole process", "rgpt chat, peak memory", "until it serves"} | SESSION:
        assert name in printed
