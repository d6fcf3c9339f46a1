"""A peer that dribbles holds what fetches no longer than the time that there is; only the open internet is
fetched from."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

import rgpt.serve.fetch
from rgpt.serve.errors import ApiError
from rgpt.serve.fetch import fetch, is_public
from rgpt.serve.settings import Settings
from tests.serve.conftest import fake_server  # noqa: F401
from tests.serve.fakes import FakeLog, body

SECONDS = 0.6

DRIBBLES: dict[str, tuple[bytes, bytes]] = {
    "nothing at all": (b"", b""),
    "a status line": (b"", b"H"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "one endless header": (b"HTTP/1.1 200 OK\r\nA: ", b"b"),
    "100 Continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk extensions": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"a=b;"),
    "small chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"A: b\r\n"),
    "a body of known length": (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x"),
    "a body until the end": (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "a redirect": (b"HTTP/1.1 302 Found\r\nLocation: /", b"x"),
}


@contextlib.contextmanager
def peer(first: bytes, again: bytes) -> Iterator[int]:
    """The port of a server that says `first`, then `again` every 20 ms for as long as it is listened to."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def talk(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.sendall(first)
            while not ended.wait(0.02):
                connection.sendall(again or b"")

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    ended.set()
    listener.close()


@pytest.mark.parametrize(
    ("name", "scheme"), [*((name, "http") for name in DRIBBLES), ("nothing at all", "https")]
)
def test_a_peer_that_dribbles_is_left(name: str, scheme: str) -> None:
    with peer(*DRIBBLES[name]) as port, pytest.raises(ApiError) as caught:
        fetch(
            f"{scheme}://there.test:{port}/",
            "p",
            Settings(),
            resolve=lambda host, port: ["127.0.0.1"],
            allowed=lambda address: True,
            seconds=SECONDS,
        )
    assert "took longer" in caught.value.message and caught.value.code == "image_url_failed"


def test_slow_peers_keep_nobody_from_a_picture_that_was_sent(fake_server, monkeypatch) -> None:  # noqa: F811
    """More fetches than may be answered at once, and a question with a picture of its own."""
    monkeypatch.setattr(rgpt.serve.fetch, "SECONDS", 100.0)
    monkeypatch.setattr(rgpt.serve.fetch, "is_public", lambda address: True)
    url = fake_server(FakeLog(), fetch=True, max_running=1) + "/v1/chat/completions"
    statuses: list[int] = []
    with peer(*DRIBBLES["headers"]) as port:

        def hold() -> None:
            sent = body(picture=f"http://127.0.0.1:{port}/")
            statuses.append(httpx.post(url, json=sent, timeout=90).status_code)

        held = [threading.Thread(target=hold) for _ in range(4)]
        for thread in held:
            thread.start()
        while fake_server.service.opener._fetching < len(held):
            time.sleep(0.01)
        assert httpx.post(url, json=body(), timeout=60).status_code == 200
        assert not statuses  # they still wait
    for thread in held:
        thread.join()
    assert statuses == [400] * 4


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("64:ff9b::5db8:d70e", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::5db8:d70e", False),
        ("64:ff9b:1::a00:1", False),
        ("::ffff:93.184.215.14", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:0:10.0.0.1", False),
        ("::ffff:0:5db8:d70e", False),
        ("::10.0.0.1", False),
        ("::5db8:d70e", False),
        ("fec0::1", False),
        ("fe80::1", False),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c%eth0", False),
        ("fd00::1", False),
        ("ff0e::1", False),
        ("100::1", False),
        ("2001:0:5ef5:79fd::1", False),
        ("2001:1::1", False),
        ("2001:db8::1", False),
        ("2002:5db8:d70e::", False),
        ("192.0.0.9", False),
        ("192.88.99.1", False),
        ("198.18.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("010.0.0.1", False),
    ],
)
def test_global_unicast_only(address: str, public: bool) -> None:
    assert is_public(address) is public
