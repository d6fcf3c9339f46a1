"""Keys, names and proxies: who may ask, and whose conversation is whose."""

from __future__ import annotations

import asyncio
import base64
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from rgpt.chat import ChatSession
from rgpt.cli import OneLineParser
from rgpt.errors import InputError
from rgpt.serve.guard import Guard, add_options, is_loopback, name_of, read_options
from tests.serve.conftest import fake_server  # noqa: F401
from tests.serve.fakes import body, parts

CHAT = "/v1/chat/completions"
SEEN: list[dict[str, Any]] = []


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Says yes to whatever passes the guard."""
    SEEN.append(scope)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


def ask(guard: Guard, path: str = "/", client: str = "127.0.0.1", **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(guard, client=(client, 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as http:
            return await http.get(path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    SEEN.clear()
    return asyncio.run(send())


def password(key: str) -> str:
    return "Basic " + base64.b64encode(f"anyone:{key}".encode()).decode()


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:7860", True),
        ("192.168.1.5", True),
        ("[::1]:7860", True),
        ("localhost:7860", True),
        ("app.localhost", True),
        ("replica:8000", True),
        ("LOCALHOST.", True),
        ("named.example:443", True),
        ("evil.example:7860", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("", True),  # HTTP/1.0 from a program: no browser leaves it out
    ],
)
def test_a_strangers_name_that_leads_here_is_refused(host: str, known: bool) -> None:
    answer = ask(Guard(application, hosts=["named.example"]), host=host)
    if known:
        assert answer.text == "yes"
    else:
        assert answer.status_code == 421 and answer.json()["error"]["code"] == "unknown_host" and not SEEN


def test_the_api_may_have_any_name_unless_a_page_of_that_name_asks() -> None:
    guard = Guard(application, api=True)
    for path in ("/v1/models", "/health"):
        assert ask(guard, path, host="other.example:8000").text == "yes"
        assert ask(guard, path, host="other.example:8000", origin="https://allowed.example").text == "yes"
        assert ask(guard, path, host="evil.example", origin="http://evil.example").status_code == 421
    assert ask(guard, "/ui/", host="other.example:8000").status_code == 421


@pytest.mark.parametrize("path", ["/", "/ui/", "/config", "/v1", "/v1x/models", "//v1/models", "/health/x"])
def test_a_page_asks_for_the_key_everywhere(path: str) -> None:
    guard = Guard(application, keys=["k-1", "clé"])
    for wrong in ("", "Basic", "Basic !!", password("k-2"), password(""), "Bearer k-1", "Basic " + "QQ=="):
        answer = ask(guard, path, authorization=wrong)
        assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic ")
    for right in ("k-1", "clé"):
        assert ask(guard, path, authorization=password(right), host="any.example").text == "yes"


def test_beside_an_api_only_the_api_is_without_a_password() -> None:
    guard = Guard(application, keys=["k"], api=True)
    assert [ask(guard, path).status_code for path in ("/v1/models", "/health", "/metrics")] == [200] * 3
    assert [ask(guard, path).status_code for path in ("/ui", "/ui/config", "/", "/v2/")] == [401] * 4


@pytest.mark.parametrize(
    ("peer", "told", "client"),
    [
        ("127.0.0.1", "8.8.8.8", "127.0.0.1"),
        ("10.0.0.7", "8.8.8.8", "8.8.8.8"),
        ("10.0.0.7", "1.1.1.1, 8.8.8.8, 10.0.0.9", "8.8.8.8"),
        ("10.0.0.7", "", "10.0.0.7"),
    ],
)
def test_only_named_proxies_say_for_whom_they_ask(peer: str, told: str, client: str) -> None:
    ask(Guard(application, proxies=["10.0.0.0/24"]), client=peer, x_forwarded_for=told)
    assert SEEN[0]["client"][0] == client
    heard = any(name.startswith(b"x-forwarded") for name, _ in SEEN[0]["headers"])
    assert heard == peer.startswith("10.")


def test_another_key_learns_nothing_of_a_conversation_without_a_picture(fake_server: Any) -> None:  # noqa: F811
    url = fake_server(SimpleNamespace(session=lambda: ChatSession(*parts())), api_keys=("mine", "theirs"))

    def cached(key: str) -> int:
        turns = [{"role": "user", "content": "My secret begins so."}]
        sent = body(messages=turns, regions=None, max_tokens=2)
        answer = httpx.post(url + CHAT, json=sent, headers={"Authorization": f"Bearer {key}"}).json()
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    first, again = cached("mine"), cached("mine")
    assert again > first == cached("theirs") and cached("theirs") == again


def options(*words: str) -> Any:
    parser = OneLineParser(prog="x")
    parser.add_argument("--host", default="127.0.0.1")
    add_options(parser)
    return parser.parse_args(words)


def test_without_a_key_only_loopback_is_without_a_warning(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("RGPT_API_KEY", raising=False)
    for host, warns in (("127.0.0.1", 0), ("::1", 0), ("localhost", 0), ("0.0.0.0", 1), ("::", 1), ("", 1)):
        read_options(options("--host", host), "x")
        assert capsys.readouterr().err.count("warning") == warns and is_loopback(host) == (not warns)
    monkeypatch.setenv("RGPT_API_KEY", "a b")
    assert read_options(options("--host", "0.0.0.0", "--api-key", "c"), "x")["keys"] == ["c", "a", "b"]
    assert capsys.readouterr().err == ""


def test_options_are_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match="--api-key is empty"):
        read_options(options("--api-key", " "), "x")
    with pytest.raises(InputError, match="--trust-proxy"):
        options("--trust-proxy", "proxy.example")
    assert name_of("[FE80::1]:80") == "fe80::1" and name_of("A.example.:80") == "a.example"
