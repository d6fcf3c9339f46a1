"""`python -m eval.held_out DATA --count 60 --out FILE`: held-out photographs as one file in COCO's layout.

For programs that read annotations and not our split: `rgpt annotate FILE --images DATA/images`. Photographs
without objects are left out, the others taken by number.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rgpt.data.photographs import annotation_files, is_held_out
from rgpt.errors import InputError
from rgpt.files import write_json


def main(argv: list[str] | None = None) -> int:
    """The command. 0, or 2 and one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m eval.held_out", description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", type=Path, help="a folder of rgpt.data.photographs, one instances*.json in it"
    )
    parser.add_argument("--count", type=int, default=60, help="photographs (default: 60)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(argv)
    try:
        (file, *more), _ = annotation_files(options.data)
        if more:
            raise InputError.about(
                f"photographs {str(options.data)!r}", "one instances*.json", str(1 + len(more))
            )
        value = json.loads(file.read_text(encoding="utf-8"))
        marked = {entry["image_id"] for entry in value["annotations"]}
        held = sorted(i["id"] for i in value["images"] if is_held_out(i["id"]) and i["id"] in marked)
        kept = set(held[: options.count])
        value["images"] = [entry for entry in value["images"] if entry["id"] in kept]
        value["annotations"] = [entry for entry in value["annotations"] if entry["image_id"] in kept]
        write_json(options.out, value)
    except InputError as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    print(f"{len(kept)} photographs with {len(value['annotations'])} objects are in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
