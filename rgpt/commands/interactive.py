"""The interactive mode of `rgpt chat`: a line that starts with / is a command, any other a question."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rgpt.cli import one_line
from rgpt.commands.answering import stream_answer
from rgpt.errors import InputError

if TYPE_CHECKING:
    from rgpt.chat import ChatSession
    from rgpt.regions import Region

HELP = """\
Ask about the picture; <region1> stands for region 1. Ctrl-C stops an answer.
  /image FILE       another picture; regions and conversation start again
  /region KIND:…    add a region: box:x1,y1,x2,y2  polygon:x,y,x,y,x,y  point:x,y  mask:FILE  rle:FILE
  /region N KIND:…  draw region N anew; what was asked before keeps the one that it was asked about
  /regions          list the regions
  /undo             take back the last question and its answer
  /help             this list
  /quit             leave (or Ctrl-D)"""


class Conversation:
    """Reads lines from stdin until /quit or the end; a mistake costs one line on stderr and no more."""

    def __init__(self, session: ChatSession, generation: Mapping[str, Any]) -> None:
        self.session = session
        self.generation = generation
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self.image,
            "/region": self.region,
            "/regions": self.list_regions,
            "/undo": self.undo,
            "/help": lambda _: print(HELP),
        }

    def run(self) -> int:
        """Talk until told to stop; return the exit code."""
        at_terminal = sys.stdin.isatty()
        if at_terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (importing it gives input() its history and arrow keys)
            print("Ask, or type /help.")
        while True:
            try:
                # A prompt would be noise in the output of `rgpt chat … < questions.txt`.
                line = input("> " if at_terminal else "").strip()
            except EOFError:
                if at_terminal:
                    print()
                return 0
            except KeyboardInterrupt:
                print("\n/quit or Ctrl-D leaves.")
                continue
            if line == "/quit":
                return 0
            if not line:
                continue
            try:
                self.obey(line)
            except InputError as error:
                print(f"rgpt chat: {one_line(error)}", file=sys.stderr)

    def obey(self, line: str) -> None:
        """Carry out one line.

        Raises:
            InputError: the command is unknown or what it was given is wrong; the session is as before.
        """
        if not line.startswith("/"):
            stream_answer(self.session, line, self.generation)
            return
        name, _, rest = line.partition(" ")
        if name not in self.commands:
            raise InputError(f"there is no command {name}; /help lists them.")
        self.commands[name](rest.strip())

    def image(self, path: str) -> None:
        """Open another picture; the session drops regions and turns, which belonged to the old one."""
        if not path:
            raise InputError("/image needs a file: /image photo.jpg.")
        from rgpt.regions import open_image

        image = open_image(path)
        self.session.set_image(image)
        print(f"{path}: {image.width}×{image.height} pixels")

    def region(self, text: str) -> None:
        """Add a region, or draw the one of a number anew, and say which number it has."""
        if not text:
            raise InputError("/region needs a region: /region box:60,150,260,330.")
        from rgpt.regions import parse_region

        first, _, rest = text.partition(" ")
        number = int(first) if first.isdecimal() else None
        region = parse_region(text if number is None else rest.strip())
        print(describe(self.session.add_region(region, number), region))

    def list_regions(self, _: str) -> None:
        """Print every region with its number."""
        for number, region in self.session.regions.items():
            print(describe(number, region))
        if not self.session.regions:
            print("no regions yet; /region box:x1,y1,x2,y2 adds one")

    def undo(self, _: str) -> None:
        """Take back the last turn and show which it was."""
        print(f"took back: {self.session.undo().question}")


def describe(number: int, region: Region) -> str:
    """One line about a region; a mask is told by its size, its counts say nothing to a reader."""
    kind, value = next(iter(region.to_json().items()))
    if kind == "mask":
        height, width = value["size"]
        value = f"{width}×{height} pixels"
    return f"<region{number}>  {kind} {value}"
