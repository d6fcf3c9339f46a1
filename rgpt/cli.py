"""The console script `rgpt`: pick the verb, import only that verb, turn a person's mistake into one line.

Exit codes: 0 done, 1 a failure of ours (with its traceback), 2 something given was wrong, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rgpt import __version__
from rgpt.errors import InputError

COMMANDS = {
    "annotate": "names, captions and attributes for boxes you have, in the format they came in",
    "assemble": "make a RegionGPT folder out of LLaVA, CLIP + Vicuna or SpatialRGPT weights",
    "chat": "draw regions on a picture from the command line and ask about them",
    "cache-features": "compute the frozen tower's features of a data set once, for training",
    "detect": "find and name things from an open vocabulary: boxes or masks with scores",
    "export-lm": "the language model alone, as a folder that transformers, vLLM and SGLang open",
    "info": "parts, parameters, tokens and memory of a model, without loading it",
    "merge-lora": "write a plain checkpoint of a LoRA run",
    "recognize": "name regions from an open vocabulary with CLIP, RegionSpot, RegionCLIP or RO-ViT",
    "serve": "answer OpenAI chat completions with regions over HTTP",
}

MODEL_HELP = "photo, tiny, a model folder or a hub id (default: photo, or tiny where photo cannot be had)"


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaints are `InputError`s, so every mistake is told in the same way."""

    def error(self, message: str) -> NoReturn:
        """Raise `InputError` with argparse's own sentence instead of printing the usage and exiting."""
        raise InputError(f"{message} (see `{self.prog} --help`)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the first word; what follows it is parsed by the verb itself."""
    width = max(map(len, COMMANDS))
    parser = OneLineParser(
        prog="rgpt",
        description="Ask a vision-language model about regions of a picture.",
        epilog="commands:\n" + "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rgpt {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of the commands below")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `rgpt` with `arguments` (default: the process's own) and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = "rgpt"
    try:
        # One word only: everything after the verb belongs to the verb, its --help included.
        command: str = build_parser().parse_args(words[:1]).command
        name = f"rgpt {command}"
        return importlib.import_module(f"rgpt.commands.{command.replace('-', '_')}").main(words[1:])
    except InputError as error:
        print(f"{name}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has left. Python would complain once more while flushing at exit, so stdout is
        # pointed at nothing first.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def one_line(error: Exception) -> str:
    """The error's message without the line breaks that a file name or a library's text may bring."""
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
