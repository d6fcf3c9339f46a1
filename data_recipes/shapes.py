"""Drawn scenes with exact masks and true answers; nothing is downloaded.

    python -m data_recipes.shapes --seed 0 --count 1000 --out DIR [--workers 4] [--regions mask|box|mixed]

DIR gets pictures/*.png, samples.jsonl (rgpt.data.schema), detections.jsonl (data_recipes.detections: every
region with its shape's name), report.json and contact_sheet.png. Sample i
shows the scene of seed `--seed` + i: runs whose seed ranges do not meet share no scene, and the same seeds
give the same files whatever the number of workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from data_recipes.detections import Detection
from data_recipes.output import Report, Reservoir, contact_sheet, new_folder, stop_cleanly_when_terminated
from rgpt.data.scene_questions import MAKERS, conversation, number_objects
from rgpt.data.scenes import DrawnObject, draw_scene
from rgpt.data.schema import QuestionAnswer, Sample, write_jsonl
from rgpt.errors import InputError
from rgpt.formats.jsonl import dump_line
from rgpt.regions import RLE, Region

REGION_KINDS = ("mask", "box", "mixed")
TURNS = (2, 5)
MIXTURE = {task: 1.0 for task in MAKERS}
"""Shares of the tasks a turn is drawn from."""
LONE_OBJECT = "fewer than two objects"
"""A scene in which nothing can be compared or related is left out, as in the training of `tiny`."""


@dataclass(frozen=True)
class Made:
    """What a worker sends back: a sample and its turns' tasks, or why there is none."""

    sample: Sample | None
    tasks: tuple[str, ...] = ()
    dropped: str = ""
    detection: Detection | None = None


def make_sample(seed: int, folder: Path, regions: str) -> Made:
    """Draw the scene of `seed`, save its picture in `folder`/pictures, ask. Depends on `seed` alone."""
    scene = draw_scene(seed)
    if len(scene.objects) < 2:
        return Made(None, dropped=LONE_OBJECT)
    # A generator for each purpose: another kind of regions must not change the questions.
    questions, kinds = random.Random(f"questions {seed}"), random.Random(f"regions {seed}")
    numbered = number_objects(scene.scene, questions)
    exchanges = conversation(numbered, questions, questions.randint(*TURNS), MIXTURE)
    picture = folder / "pictures" / f"{seed:09d}.png"
    scene.image.save(picture)
    sample = Sample(
        id=f"shapes-{seed:09d}",
        image=picture,
        regions=tuple(_region(scene.objects[i], regions, kinds) for i in numbered.order),
        turns=tuple(QuestionAnswer(exchange.question, exchange.answer) for exchange in exchanges),
    )
    names = tuple(scene.objects[i].scene_object.shape for i in numbered.order)
    detection = Detection(sample.id, picture, scene.image.width, scene.image.height, sample.regions, names)
    return Made(sample, tuple(exchange.task for exchange in exchanges), detection=detection)


def _region(drawn: DrawnObject, kind: str, rng: random.Random) -> Region:
    if kind == "mixed":
        kind = rng.choice(("mask", "box"))
    return drawn.box if kind == "box" else RLE.from_mask(drawn.mask)


def build(seed: int, count: int, out: Path, workers: int = 1, regions: str = "mixed") -> Report:
    """Write the data set of seeds `seed` … `seed + count - 1` into the new folder `out`.

    Raises:
        InputError: for a negative seed, a count or number of workers under 1, an unknown kind of regions, a
            folder that is not empty.
    """
    for name, value, least in (("seed", seed, 0), ("count", count, 1), ("workers", workers, 1)):
        if value < least:
            raise InputError.about(f"--{name}", f"at least {least}", str(value), "give a larger number")
    if regions not in REGION_KINDS:
        raise InputError.about("--regions", f"one of {', '.join(REGION_KINDS)}", repr(regions))
    report = Report("shapes", {"seed": seed, "count": count, "regions": regions})
    chosen = Reservoir(seed)
    with new_folder(out) as folder:
        (folder / "pictures").mkdir()
        with _in_order(workers) as run, open(folder / "detections.jsonl", "w", encoding="utf-8") as lines:
            made = run(partial(make_sample, folder=folder, regions=regions), range(seed, seed + count))
            write_jsonl(folder / "samples.jsonl", _counted(made, count, report, chosen, lines))
        contact_sheet(chosen.samples).save(folder / "contact_sheet.png")
        report.write(folder / "report.json")
    return report


def _counted(
    made: Iterator[Made], count: int, report: Report, chosen: Reservoir[Sample], lines: TextIO
) -> Iterator[Sample]:
    for result in tqdm(made, total=count, desc="drawing scenes", unit="scene"):
        if result.sample is None:
            report.drop(result.dropped)
            continue
        report.keep(result.sample)
        report.tasks.update(result.tasks)
        chosen.offer(result.sample)
        if result.detection is not None:
            folder = Path(lines.name).parent
            lines.write(dump_line(result.detection.to_json(folder)))
        yield result.sample


@contextmanager
def _in_order(workers: int) -> Iterator[Callable[..., Iterator[Made]]]:
    """A `map` whose results come in order, over this process or over `workers` others."""
    if workers == 1:
        yield map
        return
    # Fresh processes: a fork would copy whatever threads and locks the caller has.
    with multiprocessing.get_context("spawn").Pool(workers, _quiet_worker) as pool:
        yield partial(pool.imap, chunksize=8)


def _quiet_worker() -> None:
    """Ctrl-C is the parent's to handle: it ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m data_recipes.shapes",
        description="Draw scenes of shapes with exact masks, questions and true answers.",
        epilog="Sample i shows the scene of seed SEED + i; the files do not depend on the number of workers.",
    )
    parser.add_argument("--seed", type=int, required=True, help="seed of the first scene")
    parser.add_argument("--count", type=int, required=True, help="number of scenes to draw")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw (default: 1)")
    parser.add_argument(
        "--regions", choices=REGION_KINDS, default="mixed", help="how regions are given (default: mixed)"
    )
    options = parser.parse_args(arguments)
    stop_cleanly_when_terminated()
    try:
        report = build(options.seed, options.count, options.out, options.workers, options.regions)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: nothing was written.", file=sys.stderr)
        return 130
    print(f"{report.kept} samples of {report.read} scenes with {report.regions} regions are in {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
