"""How fast and how large a recipe is, on a synthetic file in Visual Genome's true layout.

    python -m scripts.bench recipes [--regions 1000000] [--workers 1] [--repeats 1]

The file is written first and is no part of the figures. Everything measured is the recipe's own command
line in a fresh process: seconds and peak memory of the process tree's largest member, its processor time,
and the same for a tenth of the regions, because memory must not grow with the file.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.measuring import Figure, run_process

REGIONS_A_PICTURE = 50
"""As Visual Genome: 5.4 million regions in 108,077 pictures."""
WIDTH, HEIGHT = 800, 600
WORDS = ("the", "a", "man", "dog", "tree", "street", "red", "blue", "large", "small", "on", "under", "near")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m scripts.bench recipes`."""
    parser.add_argument("--regions", type=int, default=1_000_000, help="in the file (default: 1,000,000)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the recipe (default: 1)")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="(default: 1)")
    parser.set_defaults(run=bench_recipes)


def write_visual_genome(folder: Path, regions: int) -> None:
    """region_descriptions.json and image_data.json with `regions` regions, element by element."""
    rng = random.Random(0)
    pictures = -(-regions // REGIONS_A_PICTURE)
    with open(folder / "image_data.json", "w", encoding="utf-8") as stream:
        stream.writelines(_listed(_picture(i) for i in range(1, pictures + 1)))
    with open(folder / "region_descriptions.json", "w", encoding="utf-8") as stream:
        counts = (min(REGIONS_A_PICTURE, regions - i * REGIONS_A_PICTURE) for i in range(pictures))
        stream.writelines(_listed(_described(i, n, rng) for i, n in enumerate(counts, start=1)))


def _listed(elements: Iterator[dict[str, object]]) -> Iterator[str]:
    opening = "["
    for element in elements:
        yield opening + json.dumps(element)
        opening = ", "
    yield "]"


def _picture(image_id: int) -> dict[str, object]:
    url = f"https://cs.stanford.edu/people/rak248/VG_100K_2/{image_id}.jpg"
    size = {"width": WIDTH, "url": url, "height": HEIGHT}
    return {**size, "image_id": image_id, "coco_id": None, "flickr_id": None}


def _described(image_id: int, count: int, rng: random.Random) -> dict[str, object]:
    regions = []
    for n in range(count):
        x, y = rng.randrange(WIDTH - 10), rng.randrange(HEIGHT - 10)
        region = {
            "region_id": image_id * 100 + n,
            "width": rng.randrange(5, 300),
            "height": rng.randrange(5, 300),
        }
        phrase = " ".join(rng.choices(WORDS, k=rng.randrange(3, 9)))
        regions.append({**region, "image_id": image_id, "phrase": phrase, "y": y, "x": x})
    return {"regions": regions, "id": image_id}


def convert(folder: Path, regions: int, workers: int) -> tuple[float, float, float]:
    """Run the recipe: wall seconds, processor seconds of all processes, peak memory in MiB of the largest.

    Raises SystemExit when it fails or loses a region.
    """
    out, images = folder / "out", folder / "images"
    images.mkdir(exist_ok=True)  # empty: pictures still to come
    command = [sys.executable, "-m", "data_recipes.visual_genome", "--images", str(images), "--out", str(out)]
    command += ["--annotations", str(folder / "region_descriptions.json")]
    command += ["--image-data", str(folder / "image_data.json"), "--workers", str(workers)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, kib, _ = run_process(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    lost = sum(report["regions_dropped"].values())
    if report["regions_read"] != regions or report["regions"] + lost != regions:
        raise SystemExit(f"bench: {regions} regions went in, the report counts {report['regions_read']}.")
    return seconds, busy, kib / 1024


def bench_recipes(options: argparse.Namespace) -> list[Figure]:
    """Rate and memory for the whole file, memory for a tenth of it."""
    if options.regions < 1000 or options.workers < 1:
        raise SystemExit("bench: --regions must be at least 1000 and --workers at least 1.")
    runs: dict[int, list[tuple[float, float, float]]] = {}
    for regions in (options.regions // 10, options.regions):
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as name:
                write_visual_genome(Path(name), regions)
                runs.setdefault(regions, []).append(convert(Path(name), regions, options.workers))
    whole, tenth = runs[options.regions], runs[options.regions // 10]
    n = options.regions
    return [
        Figure(f"visual_genome, {n:,} regions", "s", [seconds for seconds, _, _ in whole]),
        Figure("regions a second, whole run", "1/s", [n / seconds for seconds, _, _ in whole]),
        Figure("regions a processor-second", "1/s", [n / busy for _, busy, _ in whole], at_least=20_000),
        Figure("peak memory", "MiB", [mib for _, _, mib in whole], at_most=2048),
        Figure("peak memory, a tenth of them", "MiB", [mib for _, _, mib in tenth]),
    ]
