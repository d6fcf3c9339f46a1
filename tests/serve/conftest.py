"""Servers: one process with the model `tiny` for all tests, and quick scripted ones in a thread."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Process(NamedTuple):
    url: str
    process: subprocess.Popen[str]

    def resident_mib(self) -> float:
        """Resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            pytest.skip("resident memory is read from /proc")
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
        assert found is not None
        return int(found[1]) / 1024


@contextlib.contextmanager
def serving(*command: str) -> Iterator[Process]:
    """A server of its own process, killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found is None:
            process.kill()
            pytest.fail(f"the server said {line!r} and {process.communicate()[1]!r}")
        yield Process(found[0], process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def tiny_server() -> Iterator[Process]:
    """`rgpt serve` with the embedded model."""
    with serving("-m", "rgpt.cli", "serve", "--model", "tiny", "--port", "0", "--time-limit", "30") as server:
        yield server


@pytest.fixture
def fake_server() -> Iterator[Callable[..., str]]:
    """Starts servers in threads: `fake_server(log, settings, ...)` → their address."""
    from rgpt.serve.app import create_app
    from rgpt.serve.server import BackgroundServer
    from rgpt.serve.service import Service
    from rgpt.serve.settings import Settings

    with contextlib.ExitStack() as stack:

        def start(
            log: Any,
            api_keys: tuple[str, ...] = (),
            fetch: bool = False,
            origins: tuple[str, ...] = (),
            **settings: Any,
        ) -> str:
            settings.setdefault("grace", 0.5)
            service = Service(log.session, Settings(**settings), fetch_images=fetch)
            app = create_app(service, ["fake", "rgpt"], api_keys, origins)
            start.service = service  # type: ignore[attr-defined]
            return stack.enter_context(BackgroundServer(app, service))

        yield start
