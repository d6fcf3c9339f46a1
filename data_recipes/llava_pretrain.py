"""LLaVA-Pretrain: 558,128 pictures of LAION, CC and SBU with a caption each, for stage 1.

Downloads: blip_laion_cc_sbu_558k.json and images.zip from
huggingface.co/datasets/liuhaotian/LLaVA-Pretrain. Each record is one question, with <image> before or after
it, and the caption as its answer.

    python -m data_recipes.llava_pretrain --annotations blip_laion_cc_sbu_558k.json --images images --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_recipes import llava_files
from data_recipes.runner import Recipe, Source, main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    llava_files.add_arguments(parser, "blip_laion_cc_sbu_558k.json")


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    return llava_files.open_source(options, "llava-pretrain", "picture_caption")


RECIPE = Recipe("llava_pretrain", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))
