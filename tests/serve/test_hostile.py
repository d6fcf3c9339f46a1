"""A client that speaks raw HTTP and means no good: 4xx in the OpenAI shape, memory flat, others answered."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from tests.serve.conftest import Process
from tests.serve.fakes import BOX, body, data_url, encoded
from tests.serve.test_pictures import png_of_size

CHAT = "/v1/chat/completions"


def raw(
    url: str, head: bytes, payload: Iterator[bytes] | bytes = b"", timeout: float = 60
) -> tuple[int, dict[str, Any]]:
    """Send bytes, read the answer: its status and JSON."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=timeout) as connection:
        try:
            connection.sendall(head)
            for piece in [payload] if isinstance(payload, bytes) else payload:
                connection.sendall(piece)
        except OSError:
            pass  # the server may have answered and hung up
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = connection.recv(65536)
            assert piece, f"no answer but {answer!r}"
            answer += piece
        headers, _, rest = answer.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in headers.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        while len(rest) < length:
            rest += connection.recv(65536)
        return int(answer.split()[1]), json.loads(rest)


def post(url: str, content: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    lines = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    head = f"POST {CHAT} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    return raw(url, head.encode(), content)


def request(**fields: Any) -> bytes:
    return json.dumps(body(**fields)).encode()


def picture(data: bytes, kind: str = "image/png") -> bytes:
    return request(picture=data_url(data, kind))


def private(url: str) -> bytes:
    return request(picture=url)


GREAT_MASK = {"mask": {"size": [100_000, 100_000], "counts": "o" * 50}}
ATTACKS: dict[str, bytes] = {
    "nothing": b"",
    "half an object": b'{"model": "rgpt", "messages": [',
    "a list": b"[]",
    "bytes that are no text": b"\xff\xfe\x00",
    "deep nesting": b"[" * 1_000_000,
    "deep nesting in a field": b'{"model":"rgpt","messages":' + b'[{"content":' * 300_000,
    "many values": b'{"model":"rgpt","messages":[' + b"{}," * 3_000_000 + b"{}]}",
    "many numbers": request(regions=[{"polygon": [[1, 1]] * 150_000}]),
    "wrong types": b'{"model": 5, "messages": "hi", "regions": {"a": 1}}',
    "regions that are a string": request(regions="box"),
    "numbers that are strings": request(regions=[{"box": ["1", "2", "3", "4"]}]),
    "NaN": request(regions=[{"box": [0, 0, float("nan"), 5]}]),
    "a huge whole number": b'{"model":"rgpt","messages":[{"role":"user","content":"x"}],"seed":'
    + b"9" * 100_000
    + b"}",
    "10,000 regions": request(regions=[BOX] * 10_000),
    "1,000 regions": request(regions=[{"box": [1, 1, 5, 5]}] * 1_000),
    "a 100000 x 100000 mask": request(regions=[GREAT_MASK]),
    "a mask of a million runs": request(regions=[{"mask": {"size": [30, 40], "counts": "0" * 5_000_000}}]),
    "a decompression bomb": picture(png_of_size(40_000, 40_000)),
    "a truncated JPEG": picture(encoded(Image.effect_noise((300, 300), 90), "JPEG")[:-5000], "image/jpeg"),
    "SVG": picture(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    "SVG called PNG": picture(b"<svg xmlns='http://www.w3.org/2000/svg'><!-- --></svg>"),
    "EPS": picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"),
    "loopback": private("http://127.0.0.1:22/x.png"),
    "link-local": private("http://169.254.169.254/latest/meta-data"),
    "IPv6 loopback": private("http://[::1]/x.png"),
    "a file": private("file:///etc/passwd"),
    "gopher": private("gopher://127.0.0.1/x"),
    "an empty URL": private(""),
    "half a character": b'{"model":"rgpt","messages":[{"role":"user","content":"\\ud800"}]}',
    "no question": b'{"model":"rgpt","messages":[{"role":"user","content":""}]}',
    "a control token": b'{"model":"rgpt","messages":[{"role":"user","content":"<region1>"}]}',
}


def error_of(answer: tuple[int, dict[str, Any]]) -> str:
    status, sent = answer
    assert 400 <= status < 500, (status, sent)
    assert set(sent) == {"error"} and set(sent["error"]) == {"message", "type", "param", "code"}, sent
    assert len(sent["error"]["message"]) < 1500
    return str(sent["error"]["code"])


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(tiny_server: Process, attack: str) -> None:
    post(tiny_server.url, ATTACKS[attack])  # what an import or a first allocation costs is not counted
    before = tiny_server.resident_mib()
    for _ in range(3):
        error_of(post(tiny_server.url, ATTACKS[attack]))
    # Parsing a body of a few MB leaves holes; nothing may grow with every request.
    assert tiny_server.resident_mib() - before < 64


def pieces(count: int) -> Iterator[bytes]:
    piece = b"x" * 2**20
    for _ in range(count):
        yield piece


def test_a_body_of_200_mb_is_read_and_thrown_away(tiny_server: Process) -> None:
    before = tiny_server.resident_mib()
    largest = [before]
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            largest[0] = max(largest[0], tiny_server.resident_mib())
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    announced = f"{head}Content-Length: {200 * 2**20}\r\n\r\n".encode()
    assert error_of(raw(tiny_server.url, announced, pieces(200))) == "request_too_large"
    chunked = (b"100000\r\n" + piece + b"\r\n" for piece in pieces(200))
    end = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()

    def whole() -> Iterator[bytes]:
        yield from chunked
        yield b"0\r\n\r\n"

    assert error_of(raw(tiny_server.url, end, whole())) == "request_too_large"
    done.set()
    watcher.join()
    assert largest[0] - before < 100  # a body within the limit may take 32


def test_who_waits_for_permission_to_send_is_refused_at_once(tiny_server: Process) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    assert (
        error_of(raw(tiny_server.url, f"{head}Content-Length: {10**9}\r\n\r\n".encode()))
        == "request_too_large"
    )


def test_a_body_that_never_comes_does_not_hold_up_others(tiny_server: Process) -> None:
    address = urlsplit(tiny_server.url)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
    )
    slow = [socket.create_connection((address.hostname, address.port)) for _ in range(100)]
    try:
        for connection in slow:
            connection.sendall(head.encode())
        answer = httpx.post(
            tiny_server.url + CHAT,
            content=request(),
            headers={"Content-Type": "application/json"},
            timeout=30,
        )
        assert answer.status_code == 200
    finally:
        for connection in slow:
            connection.close()


def test_others_are_answered_meanwhile(tiny_server: Process) -> None:
    """Attackers in two threads; a well-behaved client gets its own answer every time."""
    stop = threading.Event()
    failures: list[Any] = []

    def attack(offset: int) -> None:
        names = list(ATTACKS)
        index = offset
        while not stop.is_set():
            try:
                error_of(post(tiny_server.url, ATTACKS[names[index % len(names)]]))
            except Exception as error:
                failures.append((names[index % len(names)], error))
            index += 1

    attackers = [threading.Thread(target=attack, args=(offset,)) for offset in (0, 13)]
    for thread in attackers:
        thread.start()
    answers = {
        httpx.post(tiny_server.url + CHAT, json=body(), timeout=30).json()["choices"][0]["message"]["content"]
        for _ in range(8)
    }
    stop.set()
    for thread in attackers:
        thread.join()
    assert failures == [] and len(answers) == 1
