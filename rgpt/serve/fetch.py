"""Pictures from http(s) URLs, for servers that were told to take them (`--allow-image-urls`).

A server that fetches what strangers name must not become their way into its own network: every address a host
name resolves to must be public, the connection goes to the address that was checked (a name could resolve
differently a second time), and the same holds for every redirect. Nor may a peer hold what fetches: a limit
for each read is none for an answer that dribbles, so a watchdog shuts the socket down.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from rgpt.serve.errors import ApiError
from rgpt.serve.settings import Settings

SECONDS = 10.0
REDIRECTS = 3
AT_ONCE = 8
"""Pictures fetched at once: slow peers are waited for beside one another."""

# Only what IANA gave out as global unicast is the open internet: that leaves out the forms that wrap an IPv4
# address (::ffff:0:0/96, ::ffff:0:0:0/96, ::/96, 64:ff9b:1::/48) and fec0::/10. Of what is in it, 2001::/23
# (Teredo, anycasts of one's own network) and 2002::/16 (6to4) lead elsewhere.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC = [
    ipaddress.ip_network(net) for net in ("2001::/23", "2002::/16", "192.0.0.0/24", "192.88.99.0/24")
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host name; OSError when there is none."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Whether an address is on the open internet. NAT64 (64:ff9b::/96) is what it wraps: networks of IPv6
    alone see all of IPv4 through it."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip not in _GLOBAL_UNICAST or ip.scope_id is not None:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in _NOT_PUBLIC)


def fetch(
    url: str,
    param: str,
    settings: Settings,
    *,
    resolve: Resolve = resolve,
    allowed: Callable[[str], bool] | None = None,
    seconds: float | None = None,
) -> bytes:
    """The bytes at a URL, at most `max_image_bytes`, within `seconds` (ten) and three redirects.

    Raises:
        ApiError: `image_url_not_allowed` or `image_url_failed`.
    """
    seconds = SECONDS if seconds is None else seconds
    watchdog = _Watchdog(seconds)
    try:
        for _ in range(REDIRECTS + 1):
            status, location, data = _get(url, param, settings, watchdog, resolve, allowed or is_public)
            if watchdog.over:  # what came may be cut off, or an error of the closed socket
                raise _failed(param, f"it took longer than {seconds:g} seconds")
            if status == 200:
                return data
            if status not in (301, 302, 303, 307, 308) or not location:
                raise _failed(param, f"it answered {status}" if status else "it cannot be fetched")
            url = urljoin(url, location)
    finally:
        watchdog.stop()
    raise _failed(param, "it redirects too often")


class _Watchdog:
    """Shuts the socket it watches down when the time is over: whoever reads from it then sees its end."""

    def __init__(self, seconds: float) -> None:
        self.fired = False
        self._until = time.monotonic() + seconds
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True
        self._timer.start()

    @property
    def over(self) -> bool:
        """Whether the time is over; a timeout of the socket's own may be a moment ahead of the timer."""
        return self.fired or time.monotonic() >= self._until - 0.05

    def left(self) -> float:
        """Seconds, for what cannot be watched."""
        return max(0.1, self._until - time.monotonic())

    def watch(self, connection: socket.socket | None) -> None:
        """Watch this one instead of another; None for none."""
        with self._lock:
            self._socket = connection
        if self.fired:
            self._shut()

    def stop(self) -> None:
        self._timer.cancel()

    def _fire(self) -> None:
        self.fired = True
        self._shut()

    def _shut(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._socket is not None:
                # Not the method of SSLSocket, which drops the session under the thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _get(
    url: str,
    param: str,
    settings: Settings,
    watchdog: _Watchdog,
    resolve: Resolve,
    allowed: Callable[[str], bool],
) -> tuple[int, str | None, bytes]:
    """(status, Location, body); a status of 0 where there was no whole answer."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise _refused(param, "it is no valid URL") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise _refused(param, "expected http(s)://host/path")
    try:
        addresses = resolve(host, port)
    except (OSError, UnicodeError):
        raise _failed(param, "its host is not known") from None
    if not addresses or not all(map(allowed, addresses)):
        raise _refused(param, "its host is not on the public internet")
    connection = http.client.HTTPConnection(host, port)
    try:
        sock = connection.sock = socket.create_connection((addresses[0], port), timeout=watchdog.left())
        watchdog.watch(sock)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            # The handshake apart, so that it is watched, too.
            tls = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
            connection.sock = tls
            watchdog.watch(tls)
            tls.do_handshake()
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "rgpt"})
        response = connection.getresponse()
        if response.status != 200:
            return response.status, response.getheader("Location"), b""
        chunks, size = [], 0
        while chunk := response.read1(65536):
            size += len(chunk)
            if size > settings.max_image_bytes:
                raise _failed(param, f"it has more than {settings.max_image_bytes} bytes")
            chunks.append(chunk)
        return 200, None, b"".join(chunks)
    except (OSError, http.client.HTTPException, ValueError, UnicodeError):
        return 0, None, b""
    finally:
        watchdog.watch(None)
        connection.close()


def _refused(param: str, why: str) -> ApiError:
    return ApiError("image_url_not_allowed", f"The picture's URL is refused: {why}.", param=param)


def _failed(param: str, why: str) -> ApiError:
    return ApiError("image_url_failed", f"The picture's URL could not be used: {why}.", param=param)
