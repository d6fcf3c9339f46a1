"""The tools that an option adds to the page: the options themselves, and what they open.

In one place for `python -m app.main` and for `rgpt serve --ui`. Nothing heavy is imported until a tool is
asked for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rgpt.errors import InputError

DEFAULT_VOCABULARY = "coco80"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options that `open_tools` reads."""
    add = parser.add_argument_group("tools of the page").add_argument
    add(
        "--sam",
        metavar="NAME",
        help="a transformers SamModel, folder or hub id: clicks become masks, Find all finds masks",
    )
    add(
        "--recognizer",
        metavar="NAME[@FOLDER]",
        help="Find all also names what it finds; as `rgpt recognize --model`, for example regionspot@FOLDER",
    )
    add(
        "--vocabulary",
        metavar="V",
        help=f'the names to begin with: coco80, lvis, a file, or "a,b,c" (default: {DEFAULT_VOCABULARY})',
    )
    add(
        "--proposals",
        metavar="SOURCE",
        help="where the recognizer's regions come from, as for `rgpt recognize`, for example photo "
        "(default: the SAM of --sam)",
    )


def open_tools(options: argparse.Namespace) -> dict[str, Any]:
    """`segmenter` and `namer` for `app.page.build_page`, each None where its option is not given.

    Raises:
        InputError: an option is wrong, or needs another one; the cheap mistakes come first.
    """
    if options.recognizer is None:
        for name in ("vocabulary", "proposals"):
            if getattr(options, name) is not None:
                raise InputError.about(
                    f"--{name}",
                    "a recognizer with it",
                    "none",
                    "add --recognizer, for example --recognizer clip-crop@openai/clip-vit-base-patch16",
                )
    elif options.sam is None and options.proposals is None:
        raise InputError.about(
            "--recognizer",
            "something that finds regions with it",
            "neither --sam nor --proposals",
            "add one, for example --sam facebook/sam-vit-base",
        )
    elif options.proposals == "gt":
        raise InputError.about(
            "--proposals",
            "a source that finds regions on any picture",
            "gt, which needs them given",
            "name another one, for example sam:facebook/sam-vit-base",
        )
    names = None
    if options.recognizer is not None:
        from app.naming import names_text, read_names
        from rgpt.recognizers.vocabulary import read_vocabulary

        given = options.vocabulary if options.vocabulary is not None else DEFAULT_VOCABULARY
        names = read_names(names_text(read_vocabulary(given).names), most=sys.maxsize)
    segmenter = namer = None
    if options.sam is not None:
        from app.sam import SamSegmenter

        segmenter = SamSegmenter.load(options.sam)
    if names is not None:
        from app.naming import RegionNamer
        from rgpt.recognizers.loading import open_recognizer
        from rgpt.recognizers.proposals import JsonProposals, open_source

        recognizer = open_recognizer(options.recognizer)
        source = segmenter.propose if options.proposals is None else open_source(options.proposals)
        if isinstance(source, JsonProposals) and len(source.rows) > 1:
            raise InputError.about(
                f"--proposals {options.proposals}",
                "the detections of one picture, since an uploaded one has no id",
                f"those of {len(source.rows)}",
                "keep one picture's, or use `rgpt recognize --image-id`",
            )
        # Without its folder: visitors need not know what lies where.
        shown = Path(options.recognizer.partition("@")[0]).name
        namer = RegionNamer(recognizer, source, names, shown)
    return {"segmenter": segmenter, "namer": namer}
