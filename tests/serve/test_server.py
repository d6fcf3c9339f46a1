"""The socket under the server."""

from __future__ import annotations

import asyncio
import socket

from rgpt.serve.server import listen


def test_small_pieces_of_a_stream_do_not_wait_for_one_another() -> None:
    """Nagle's algorithm is off on an accepted connection, as asyncio leaves it."""

    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(
                writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            )
            writer.close()

        listener = listen("127.0.0.1", 0)
        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            option = await asyncio.wait_for(found, 10)
            writer.close()
            return option

    assert asyncio.run(accepted()) != 0
