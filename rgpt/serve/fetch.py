"""Pictures from http(s) URLs, for servers that were told to take them (`--allow-image-urls`).

A server that fetches what strangers name must not become their way into its own network: every address a host
name resolves to must be public, the connection goes to the address that was checked (a name could resolve
differently a second time), and the same holds for every redirect.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from rgpt.serve.errors import ApiError
from rgpt.serve.settings import Settings

SECONDS = 10.0
REDIRECTS = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a host name; OSError when there is none."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(address: str) -> bool:
    """Whether an address is on the open internet, seen through the IPv6 forms that wrap an IPv4 address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
            ip = inner if inner is not None else ip
    return ip.is_global and not ip.is_multicast


def fetch(
    url: str,
    param: str,
    settings: Settings,
    *,
    resolve: Resolve = resolve,
    allowed: Callable[[str], bool] = is_public,
) -> bytes:
    """The bytes at a URL, at most `max_image_bytes`, within ten seconds and three redirects.

    Raises:
        ApiError: `image_url_not_allowed` or `image_url_failed`.
    """
    until = time.monotonic() + SECONDS
    for _ in range(REDIRECTS + 1):
        status, location, data = _get(url, param, settings, until, resolve, allowed)
        if status == 200:
            return data
        if status not in (301, 302, 303, 307, 308) or not location:
            raise _failed(param, f"it answered {status}")
        url = urljoin(url, location)
    raise _failed(param, "it redirects too often")


def _get(
    url: str, param: str, settings: Settings, until: float, resolve: Resolve, allowed: Callable[[str], bool]
) -> tuple[int, str | None, bytes]:
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
    connection = http.client.HTTPConnection(host, port, timeout=max(0.1, until - time.monotonic()))
    try:
        connection.sock = socket.create_connection((addresses[0], port), timeout=connection.timeout)
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
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
            if time.monotonic() > until:
                raise _failed(param, f"it took longer than {SECONDS:g} seconds")
            chunks.append(chunk)
        return 200, None, b"".join(chunks)
    except (OSError, http.client.HTTPException, ValueError, UnicodeError):
        raise _failed(param, "it cannot be fetched") from None
    finally:
        connection.close()


def _refused(param: str, why: str) -> ApiError:
    return ApiError("image_url_not_allowed", f"The picture's URL is refused: {why}.", param=param)


def _failed(param: str, why: str) -> ApiError:
    return ApiError("image_url_failed", f"The picture's URL could not be used: {why}.", param=param)
