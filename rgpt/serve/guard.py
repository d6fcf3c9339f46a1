"""Who may ask at all: names of this server, proxies, keys of a page. One ASGI middleware for server and app.

The API looks at its Bearer keys itself. Everything beside it is a page, which a browser opens: there the same
keys are asked for as a password (RFC 7617), which the browser sends with each request from then on.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hmac
import ipaddress
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from rgpt.errors import InputError
from rgpt.files import sha256
from rgpt.serve.errors import ApiError

Application = Callable[..., Awaitable[None]]
API_PATHS = ("/health", "/metrics", "/openapi.json", "/favicon.ico")
"""Beside `/v1/`: what the server answers without a key."""
_TOLD_BY_PROXIES = (b"forwarded", b"x-real-ip", b"x-forwarded-")


class Keys:
    """The keys that are taken; empty for none."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._secrets = [key.encode() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def bearer(self, authorization: str) -> str | None:
        """A hash of the key in `Bearer KEY`, None where it is none of these."""
        scheme, _, given = authorization.partition(" ")
        return self._known(given.strip().encode()) if scheme.lower() == "bearer" else None

    def password(self, authorization: str) -> str | None:
        """The same for `Basic base64(ANY:KEY)`, as a browser sends it."""
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            return self._known(base64.b64decode(given.strip(), validate=True).partition(b":")[2])
        except (binascii.Error, ValueError):
            return None

    def _known(self, key: bytes) -> str | None:
        # All are compared, so that the time taken says nothing about which one was close.
        if any([hmac.compare_digest(key, secret) for secret in self._secrets]):
            return sha256(key)[:16]
        return None


class Guard:
    """Refuses requests that no honest client of this server sends.

    A page of a stranger can make its own name lead to this machine (DNS rebinding), and is then of one origin
    with what answers there. So a browser must ask for an address, a name without a dot (`localhost`), or one
    that was told to this server; keys make that needless, because the stranger's page does not know one.

    Args:
        keys: what a page asks for; the API of the same application asks for them itself.
        hosts: further names of this server, without port.
        proxies: addresses or networks whose `X-Forwarded-For` and `-Proto` are believed; from any other peer
            they are dropped.
        api: whether `/v1/*` and `API_PATHS` are an API, and not part of a page.
    """

    def __init__(
        self,
        app: Application,
        keys: Sequence[str] = (),
        hosts: Sequence[str] = (),
        proxies: Sequence[str] = (),
        api: bool = False,
    ) -> None:
        self.app, self.keys, self.api = app, Keys(keys), api
        self.hosts = {host.lower() for host in hosts}
        self.proxies = [ipaddress.ip_network(proxy) for proxy in proxies]

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            scope = self._without_rumours(scope)
            error = self._refusal(scope)
            await (self.app(scope, receive, send) if error is None else refuse(error, send))

    def _without_rumours(self, scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """With the client that a named proxy tells of; what anybody else says about that is left out."""
        client = scope.get("client")
        told = header(scope, b"x-forwarded-for")
        if client and self._is_proxy(client[0]):
            scheme = header(scope, b"x-forwarded-proto").strip().lower()
            # From the right, where the nearest proxy writes; what is left of the first stranger is hearsay.
            hops = [hop.strip() for hop in told.split(",") if hop.strip()]
            address = next((hop for hop in reversed(hops) if not self._is_proxy(hop)), client[0])
            scheme = scheme if scheme in ("http", "https") else scope["scheme"]
            return {**scope, "client": (address, 0), "scheme": scheme}
        kept = [pair for pair in scope["headers"] if not pair[0].lower().startswith(_TOLD_BY_PROXIES)]
        return {**scope, "headers": kept}

    def _is_proxy(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self.proxies)

    def _refusal(self, scope: Mapping[str, Any]) -> ApiError | None:
        path, hosts = scope["path"], [value for name, value in scope["headers"] if name == b"host"]
        is_api = self.api and (path.startswith("/v1/") or path.rstrip("/") in (*API_PATHS, "/v1"))
        if len(hosts) > 1:
            return ApiError("invalid_request", "The request has several Host headers: send one.")
        host = hosts[0].decode("latin1") if hosts else ""
        # Programs may call this server what they like. Of the API, a stranger's page that is of one origin
        # with it says so; any other may not even ask, unless its origin was allowed.
        asks = not is_api or urlsplit(header(scope, b"origin")).netloc.lower() == host.lower()
        if not self.keys and host and asks and not self._is_ours(host):
            return ApiError(
                "unknown_host",
                f"This server is not known as {host[:80]!r}: ask for its address, or "
                "start it with --allow-host NAME.",
                status=421,
            )
        if self.keys and not is_api and self.keys.password(header(scope, b"authorization")) is None:
            return ApiError(
                "invalid_api_key",
                "The page needs a key: any name, and one of the server's API keys as the password.",
                status=401,
                headers={"WWW-Authenticate": 'Basic realm="rgpt", charset="UTF-8"'},
            )
        return None

    def _is_ours(self, host: str) -> bool:
        name = name_of(host)
        # A name without a dot is one of this machine's network: no stranger can have it.
        if "." not in name or name.endswith(".localhost") or name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def header(scope: Mapping[str, Any], name: bytes) -> str:
    """A header's value, those of one name joined by commas; "" for none."""
    return ",".join(value.decode("latin1") for key, value in scope["headers"] if key.lower() == name)


def name_of(host: str) -> str:
    """The name in `NAME:PORT` or `[ADDRESS]:PORT`."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options that `read_options` reads."""
    add = parser.add_argument_group("who may ask").add_argument
    add(
        "--api-key",
        metavar="KEY",
        action="append",
        default=[],
        help="a key that requests must bring, and a page's visitors as their password; may be repeated; "
        "RGPT_API_KEY hides it from other users",
    )
    add(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name by which browsers ask for this server; may be repeated; not needed with a key",
    )
    add(
        "--trust-proxy",
        metavar="ADDRESS",
        type=_network,
        action="append",
        default=[],
        help="a proxy, or network of them, whose X-Forwarded-For is believed; may be repeated",
    )


def read_options(options: argparse.Namespace, command: str) -> dict[str, list[str]]:
    """`keys`, `hosts` and `proxies` for a `Guard`, with a warning where strangers would need no key.

    Raises:
        InputError: a key is empty.
    """
    keys = [*options.api_key, *os.environ.get("RGPT_API_KEY", "").split()]
    if any(not key.strip() for key in keys):
        raise InputError("--api-key is empty: give a key, or leave the option away.")
    if not keys and not is_loopback(options.host):
        host = options.host or "this machine"
        print(
            f"{command}: warning: {host} can be reached from outside and no --api-key is set.",
            file=sys.stderr,
        )
    # Who listens on a name is asked for by it.
    return {"keys": keys, "hosts": [options.host, *options.allow_host], "proxies": options.trust_proxy}


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an address or network, not {text!r}") from None


async def refuse(error: ApiError, send: Any) -> None:
    """Answer with an error, in the form of the API."""
    body = json.dumps(error.body()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error.headers}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
