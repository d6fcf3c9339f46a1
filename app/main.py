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
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the model, serve the page, and return the exit code when stopped."""
    options = build_parser().parse_args(arguments)
    try:
        tools = open_tools(options)
        if options.model is None:
            from rgpt.model.default import default_model

            options.model = default_model()
        serve(options.model, options.host, options.port, placement(options), **tools)
    except InputError as error:
        print(f"app: {error}", file=sys.stderr)
        return 2
    return 0


def serve(model: str, host: str, port: int, where: Mapping[str, Any], **tools: Any) -> None:
    """Serve the app until it is interrupted; prints its address.

    Args:
        where: the model runs, see `rgpt.placement`.
        tools: what `open_tools` returns.

    Raises:
        InputError: there is no such model, or the address cannot be listened on.
    """
    from app.engine import ModelEngine
    from app.examples import shown_with
    from app.page import build_page, launch_options

    engine = ModelEngine.load(model, **where)
    page = build_page(engine, **shown_with(engine.about), **tools)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            # Gradio asks its own page once, for three seconds, and gives up on a machine that is busy.
            _frontend=False,
            **launch_options(),
        )
    except OSError as error:
        raise InputError(
            f"The app cannot listen on {host}:{port} ({error}); choose another --port or --host."
        ) from error
    print(f"rgpt with the model {model} is at {address} (Ctrl-C stops it)", flush=True)
    page.block_thread()


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 65535, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
