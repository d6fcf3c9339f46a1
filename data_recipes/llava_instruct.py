"""LLaVA-Instruct: 150K or mix665k, conversations about whole pictures and text alone, for stage 2.

Downloads: llava_instruct_150k.json or llava_v1_5_mix665k.json from
huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K. In mix665k paths begin with coco/, gqa/, ocr_vqa/,
textvqa/ and vg/ under DIR, and some records have no picture; in 150K they are the bare names of COCO
train2017. gqa/ holds Visual Genome's pictures, and --exclude-images knows it.

    python -m data_recipes.llava_instruct --annotations llava_v1_5_mix665k.json --images data --out DIR
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_recipes import llava_files
from data_recipes.runner import Recipe, Source, main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    llava_files.add_arguments(parser, "llava_instruct_150k.json or llava_v1_5_mix665k.json")


def open_source(options: argparse.Namespace, scratch: Path) -> Source:
    return llava_files.open_source(options, "llava-instruct", "chat")


RECIPE = Recipe("llava_instruct", __doc__, add_arguments, open_source)

if __name__ == "__main__":
    sys.exit(main(RECIPE))
