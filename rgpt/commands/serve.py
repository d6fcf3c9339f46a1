"""`rgpt serve`: a model behind the OpenAI chat completions protocol, with regions.

The page (`--ui`) lives above this package, so it is named, not imported: `MODULE:FUNCTION`, called with the
application, the model, its processor and its name, returns the application with a page at /ui. A page may
have options of its own, see `Page`. The default is the app of the same installation.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rgpt
from rgpt.cli import MODEL_HELP, OneLineParser
from rgpt.errors import InputError
from rgpt.placement import add_placement, placement
from rgpt.serve import guard

PAGE = "app.mount:mount"
EXAMPLES = """\
examples:
  rgpt serve
  rgpt serve --model runs/stage2 --port 8000 --ui
  rgpt serve --ui --sam facebook/sam-vit-base      (a page has its own options: rgpt serve --ui --help)
  RGPT_API_KEY=… rgpt serve --host 0.0.0.0

a request (the official client sends regions with extra_body={"regions": [...]}):
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d '
    {"model": "rgpt", "messages": [{"role": "user", "content": [
       {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}},
       {"type": "text", "text": "What is <region1>?"}]}],
     "regions": [{"id": "region1", "box": [60, 150, 260, 330]}]}'
"""


class Page(NamedTuple):
    """What `--ui MODULE:FUNCTION` names.

    `mount` is the function. The module may also have `add_options(parser)`, which gives the command the
    page's options, and `open_tools(options)`, called before the model is loaded, which returns keyword
    arguments for the function.
    """

    mount: Callable[..., Any]
    add_options: Callable[[argparse.ArgumentParser], None]
    open_tools: Callable[[argparse.Namespace], Mapping[str, Any]]


def build_parser(page: Page | None = None) -> argparse.ArgumentParser:
    """The parser of `rgpt serve`, with the options of its page."""
    parser = OneLineParser(
        prog="rgpt serve",
        description="Serve a model: OpenAI chat completions with regions, /v1/regions, /v1/models, /health, "
        "/metrics.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", help=MODEL_HELP)
    add("--model-name", metavar="NAME", help="what requests call it, besides rgpt (default: its last part)")
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=_port, default=8000, help="default: 8000; 0 lets the system choose")
    _add_ui(parser)
    add(
        "--allow-origin",
        metavar="ORIGIN",
        type=_origin,
        action="append",
        default=[],
        help="let pages of https://HOST ask from a browser (CORS); may be repeated; * is any page",
    )
    add("--allow-image-urls", action="store_true", help="fetch http(s) pictures from public addresses")
    add("--max-running", type=_count, metavar="N", help="answers computed at once")
    add("--max-waiting", type=_count_or_none, metavar="N", help="requests in line; one more gets 429")
    add("--max-regions", type=_count, metavar="N", help="regions of a conversation")
    add("--max-image-pixels", type=_count, metavar="N")
    add("--time-limit", type=_seconds, metavar="S", help="of a request, waiting included")
    add("--grace", type=_seconds, metavar="S", help="that answers get to finish after SIGTERM")
    add_placement(parser)
    add("--access-log", action="store_true", help="a line on stderr for every request")
    guard.add_options(parser)
    if page is not None:
        page.add_options(parser)
    return parser


def read_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, Page | None]:
    """The options, and the page that they ask for; its own options are among them.

    Raises:
        InputError: an argument is wrong, or there is no such page.
    """
    first = OneLineParser(prog="rgpt serve", add_help=False)
    _add_ui(first)
    spec = first.parse_known_args(arguments)[0].ui
    page = find_page(spec) if spec else None
    parser = build_parser(page)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        hint = "" if page else "; options of the page need --ui"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return options, page


def main(arguments: Sequence[str]) -> int:
    """Run `rgpt serve` until a signal and return the exit code.

    Raises:
        InputError: an argument is wrong, there is no such model or page, the address is taken.
    """
    options, page = read_arguments(arguments)
    who = guard.read_options(options, "rgpt serve")
    try:
        from rgpt.serve.app import create_app
        from rgpt.serve.server import listen, run
        from rgpt.serve.service import Service
        from rgpt.serve.settings import Settings
    except ModuleNotFoundError as error:
        if (error.name or "rgpt").startswith("rgpt"):
            raise
        raise InputError(
            f"rgpt serve needs {error.name}: pip install -e '.[serve]' in the repository."
        ) from error

    limits = ("max_running", "max_waiting", "max_regions", "max_image_pixels", "time_limit", "grace")
    settings = Settings(**{n: getattr(options, n) for n in limits if getattr(options, n) is not None})

    import logging

    from transformers.utils import logging as transformers_logging

    from rgpt.chat import ChatSession
    from rgpt.model import load
    from rgpt.model.default import default_model

    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.WARNING)
    transformers_logging.disable_progress_bar()
    listener = listen(options.host, options.port)  # a taken port is told before a large model is loaded
    tools = page.open_tools(options) if page is not None else {}
    chosen = options.model or default_model()
    model, processor = load(chosen, **placement(options))
    name = options.model_name or chosen.rstrip("/").rsplit("/", 1)[-1]
    service = Service(
        lambda: ChatSession(model, processor),
        settings,
        fetch_images=options.allow_image_urls,
        features_bytes=features_bytes(model),
    )
    names = list(dict.fromkeys([name, "rgpt"]))
    app: Any = create_app(service, names, who["keys"], options.allow_origin, who["hosts"], who["proxies"])
    if page is not None:
        app = page.mount(app, model, processor, name, **tools)
    where = ", page at {address}/ui" if page is not None else ""
    return run(
        app,
        service,
        listener,
        lambda address: (
            f"rgpt serves {name} at {address}/v1{where.format(address=address)} (Ctrl-C stops it)"
        ),
        access_log=options.access_log,
        log_level="info" if options.access_log else "warning",
    )


def _add_ui(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ui",
        nargs="?",
        const=PAGE,
        metavar="MODULE:FUNCTION",
        help=f"also serve a page at /ui, with its own options (default: {PAGE}, of this installation)",
    )


def find_page(spec: str) -> Page:
    """The page of `MODULE:FUNCTION`; the default is the app beside this package, whatever else is named so.

    Raises:
        InputError: there is none.
    """
    module_name, _, function = spec.partition(":")
    try:
        if spec == PAGE:
            _import_own_app()
        module = importlib.import_module(module_name)
        return Page(
            getattr(module, function),
            getattr(module, "add_options", lambda parser: None),
            getattr(module, "open_tools", lambda options: {}),
        )
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"--ui {spec} cannot be used ({error}): install with pip install -e '.[serve,app]' in the "
            "repository, or name MODULE:FUNCTION of an installed package."
        ) from error


def _import_own_app() -> None:
    """Import `app` from the folder in which this package lies, never from the current one.

    Raises:
        ImportError: it is not there, or another `app` is imported already.
    """
    folder = Path(rgpt.__file__).resolve().parents[1] / "app"
    if "app" in sys.modules:
        found = sys.modules["app"].__file__ or ""
        if Path(found).resolve().parent != folder:
            raise ImportError(f"{found} is imported as app")
        return
    if not (folder / "mount.py").is_file():
        raise ImportError(f"there is no {str(folder)!r}")
    spec = importlib.util.spec_from_file_location("app", folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    sys.modules["app"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def features_bytes(model: Any) -> int:
    """Bytes of one picture's refined features, for the bound on what is kept."""
    config = model.config
    return int(config.vision_hidden_size * config.refined_grid**2 * model.dtype.itemsize)


def _origin(text: str) -> str:
    """As a browser sends it: no path, no slash at the end, lower case."""
    origin = text.strip().rstrip("/").lower()
    if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
        raise argparse.ArgumentTypeError(f"must be https://HOST or http://HOST:PORT or *, not {text!r}")
    return origin


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 65535, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return value
