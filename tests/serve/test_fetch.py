"""Fetching pictures: only from the open internet, not even by way of redirects or names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rgpt.serve.errors import ApiError
from rgpt.serve.fetch import fetch, is_public
from rgpt.serve.settings import Settings


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d70e", True),
        ("2002:7f00:1::", False),
        ("not an address", False),
    ],
)
def test_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


class Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        redirects = {
            "/moved": "/picture",
            "/loop": "/loop",
            "/inside": "http://inside.test/picture",
            "/file": "file:///etc/passwd",
        }
        if self.path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[self.path])
            self.end_headers()
            return
        data = {"/picture": b"pixels", "/large": b"x" * 5000}.get(self.path)
        self.send_response(200 if data else 404)
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str) -> bytes:
    """`outside.test` is this machine and counts as public; `inside.test` does not."""
    names = {
        "outside.test": ["127.0.0.1"],
        "inside.test": ["10.0.0.1"],
        "both.test": ["127.0.0.1", "10.0.0.1"],
    }
    return fetch(
        url,
        "p",
        Settings(max_image_bytes=1000),
        resolve=lambda host, port: names.get(host, [host]),
        allowed=lambda address: address == "127.0.0.1",
    )


def test_fetches_and_follows_redirects(web: int) -> None:
    assert get(f"http://outside.test:{web}/picture") == b"pixels"
    assert get(f"http://outside.test:{web}/moved") == b"pixels"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("http://outside.test:{}/inside", "image_url_not_allowed"),
        ("http://outside.test:{}/file", "image_url_not_allowed"),
        ("http://inside.test:{}/picture", "image_url_not_allowed"),
        ("http://both.test:{}/picture", "image_url_not_allowed"),
        ("http://user:word@outside.test:{}/picture", "image_url_not_allowed"),
        ("ftp://outside.test:{}/picture", "image_url_not_allowed"),
        ("http://[::1:{}/", "image_url_not_allowed"),
        ("http://outside.test:{}/loop", "image_url_failed"),
        ("http://outside.test:{}/large", "image_url_failed"),
        ("http://outside.test:{}/nothing", "image_url_failed"),
        ("https://outside.test:{}/picture", "image_url_failed"),
        ("http://outside.test:{}/pic ture", "image_url_failed"),
    ],
)
def test_refused(web: int, path: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        get(path.format(web))
    assert (caught.value.code, caught.value.status) == (code, 400)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "169.254.169.254"]
)
def test_this_machine_is_refused_by_the_real_rules(web: int, host: str) -> None:
    with pytest.raises(ApiError) as caught:
        fetch(f"http://{host}:{web}/picture", "p", Settings())
    assert caught.value.code in ("image_url_not_allowed", "image_url_failed")
