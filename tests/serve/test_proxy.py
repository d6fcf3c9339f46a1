"""docs/nginx.conf with two replicas: streams pass, conversations stay, a replica that ends is not missed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.serve.conftest import ROOT, Process, serving

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


class Proxy(NamedTuple):
    url: str
    replicas: list[Process]

    def ask(self, words: int, conversation: str) -> str:
        """Who answered."""
        response = httpx.post(
            f"{self.url}/v1/chat/completions",
            json={"model": "slow", "messages": [{"role": "user", "content": str(words)}]},
            headers={"X-Conversation": conversation},
            timeout=30,
        )
        assert response.status_code == 200, response.text
        return str(response.json()["model"])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    slow = ("-m", "tests.serve.slow_server", "5")
    with serving(*slow, "one") as one, serving(*slow, "two") as two:
        port = free_port()
        site = (ROOT / "docs" / "nginx.conf").read_text()
        for old, url in (("8001", one.url), ("8002", two.url)):
            assert f"server 127.0.0.1:{old}" in site
            site = site.replace(f"server 127.0.0.1:{old}", f"server {url.removeprefix('http://')}")
        site = site.replace("listen 127.0.0.1:8000", f"listen 127.0.0.1:{port}")
        temporary = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {tmp_path}/pid; error_log {tmp_path}/error;\n"
            f"events {{ worker_connections 256; }}\nhttp {{ access_log off;\n{temporary}{site}}}\n"
        )
        process = subprocess.Popen(
            ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error")]
        )
        try:
            url = f"http://127.0.0.1:{port}"
            until = time.monotonic() + 20
            while True:
                try:
                    httpx.get(f"{url}/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    assert process.poll() is None and time.monotonic() < until, (
                        tmp_path / "error"
                    ).read_text()
                    time.sleep(0.05)
            yield Proxy(url, [one, two])
        finally:
            process.terminate()
            process.wait(timeout=20)


def test_two_replicas(proxy: Proxy) -> None:
    # A conversation stays where it is; several are spread over both.
    who = {name: proxy.ask(1, name) for name in "abcdefghijkl"}
    assert set(who.values()) == {"one", "two"}
    assert all(proxy.ask(1, name) == replica for name, replica in who.items())

    # A stream comes piece by piece: the first word is there long before the last is computed.
    body = {"model": "slow", "messages": [{"role": "user", "content": "60"}], "stream": True}
    with httpx.stream("POST", f"{proxy.url}/v1/chat/completions", json=body, timeout=30) as response:
        lines = response.iter_lines()
        next(lines)
        health = [httpx.get(f"{replica.url}/health").json()["running"] for replica in proxy.replicas]
        assert sum(health) == 1
        assert [line for line in lines if line][-1] == "data: [DONE]"

    # A client that leaves the proxy leaves the replica.
    body["messages"] = [{"role": "user", "content": "400"}]
    with httpx.stream("POST", f"{proxy.url}/v1/chat/completions", json=body, timeout=30) as response:
        next(response.iter_lines())
    until = time.monotonic() + 4  # the answer would take eight seconds
    while any(httpx.get(f"{replica.url}/health").json()["running"] for replica in proxy.replicas):
        assert time.monotonic() < until
        time.sleep(0.05)

    assert httpx.get(f"{proxy.url}/metrics").status_code == 404
    assert httpx.post(f"{proxy.url}/v1/chat/completions", content=b"x" * (33 * 2**20)).status_code == 413

    # One replica ends: its conversations are answered by the other, and nobody sees an error.
    proxy.replicas[0].process.terminate()
    for name in who:
        proxy.ask(1, name)  # while it ends
    assert proxy.replicas[0].process.wait(timeout=20) == 0
    assert {proxy.ask(1, name) for name in who} == {"two"}
