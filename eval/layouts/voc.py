"""Folders of text files, one a picture, in pixels: `class x y w h`, of detections `class score x y w h`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from eval.layouts.fields import check_number
from eval.layouts.files import PathOrValue, name_of, show
from eval.metrics.referring import Corners
from eval.metrics.voc import Scored
from rgpt.errors import InputError


def read_voc_folders(
    gt: PathOrValue, predictions: PathOrValue
) -> tuple[dict[str, dict[str, list[Corners]]], dict[str, dict[str, list[Scored]]]]:
    """Boxes by class and picture, true ones and (score, box) pairs.

    Corners are as the published figures were computed: x2 = x + w, to which VOC's IoU adds the last pixel.

    Raises:
        InputError: no folders, a line of another form, detections in a picture without a ground truth file.
    """
    truths: dict[str, dict[str, list[Corners]]] = defaultdict(lambda: defaultdict(list))
    found: dict[str, dict[str, list[Scored]]] = defaultdict(lambda: defaultdict(list))
    known = {path.name for path in _files(gt)}
    for path in _files(gt):
        for name, numbers in _lines(path, 4):
            truths[name][path.stem].append(_corners(numbers))
    for path in _files(predictions):
        if path.name not in known:
            raise InputError.about(
                str(path), f"a picture of {name_of(gt)}", "no file of this name there", "check both folders"
            )
        for name, (score, *numbers) in _lines(path, 5):
            found[name][path.stem].append((score, _corners(numbers)))
    return truths, found


def _files(folder: PathOrValue) -> list[Path]:
    if not isinstance(folder, str | Path) or not Path(folder).is_dir():
        raise InputError.about(name_of(folder), "a folder of .txt files, one a picture", "none")
    paths = sorted(Path(folder).glob("*.txt"))
    if not paths:
        raise InputError.about(str(folder), "a folder of .txt files, one a picture", "none")
    return paths


def _lines(path: Path, numbers: int) -> list[tuple[str, list[float]]]:
    """(class, numbers) of each line that is not blank."""
    found = []
    for n, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name, *rest = line.split()
        try:
            values = [check_number(float(word), "") for word in rest]
        except ValueError:
            values = []
        if len(values) != numbers or min(values[-2:]) < 0:
            form = "class x y w h" if numbers == 4 else "class score x y w h"
            raise InputError.about(f"{path}:{n}", f"{form} in pixels", show(line))
        found.append((name, values))
    return found


def _corners(xywh: list[float]) -> Corners:
    x, y, w, h = xywh
    return x, y, x + w, y + h
