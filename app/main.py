"""Open the app: `python -m app.main [--model photo|tiny|DIR|HUB_ID] [--port …]`; tools: `app.options`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# Before Gradio is imported anywhere: it would otherwise contact two outside hosts.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from app.options import add_options, open_tools
from rgpt.errors import InputError
from rgpt.placement import add_placement, placement
from rgpt.serve import guard


def build_parser() -> argparse.ArgumentParser:
    """The options of `python -m app.main`."""
    parser = argparse.ArgumentParser(
        prog="python -m app.main",
        description="Draw regions on a picture and talk about them, in the browser.",
    )
    parser.add_argument(
        "--model",
        help="photo, tiny, a folder or a hub id (default: photo, or tiny where photo cannot be had)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=_port, default=7860, help="default: 7860")
    add_placement(parser)
    add_options(parser)
    guard.add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the model, serve the page, and return the exit code when stopped."""
    options = build_parser().parse_args(arguments)
    try:
        who = guard.read_options(options, "app")
        tools = open_tools(options)
        if options.model is None:
            from rgpt.model.default import default_model

            options.model = default_model()
        serve(options.model, options.host, options.port, placement(options), who, **tools)
    except InputError as error:
        print(f"app: {error}", file=sys.stderr)
        return 2
    return 0


def serve(
    model: str,
    host: str,
    port: int,
    where: Mapping[str, Any],
    who: Mapping[str, Sequence[str]] | None = None,
    **tools: Any,
) -> None:
    """Serve the app until it is interrupted; prints its address.

    Args:
        where: the model runs, see `rgpt.placement`.
        who: arguments of `rgpt.serve.guard.Guard`.
        tools: what `open_tools` returns.

    Raises:
        InputError: there is no such model, or the address cannot be listened on.
    """
    import uvicorn
    from fastapi import FastAPI

    from app.engine import ModelEngine
    from app.examples import shown_with
    from app.mount import mount_page
    from app.page import build_page
    from app.privacy import use_own_folder
    from rgpt.serve.server import listen

    listener = listen(host, port)  # a taken port is told before a large model is loaded
    use_own_folder()
    engine = ModelEngine.load(model, **where)
    application = FastAPI(openapi_url=None)
    application.add_middleware(guard.Guard, **(who or {}))
    mount_page(application, build_page(engine, **shown_with(engine.about), **tools), "/")

    class Server(uvicorn.Server):
        """Ends in order on a signal, which uvicorn would raise once more afterwards."""

        def handle_exit(self, *_: Any) -> None:
            self.should_exit, self.force_exit = True, self.should_exit

    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    print(f"rgpt with the model {model} is at http://{address} (Ctrl-C stops it)", flush=True)
    # Open pages hold a stream each: they are not waited for.
    settings = {"log_level": "warning", "proxy_headers": False, "timeout_graceful_shutdown": 2}
    Server(uvicorn.Config(application, **settings)).run(sockets=[listener])


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 65535, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
