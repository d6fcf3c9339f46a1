"""Random files in COCO's layout, each damaged once: the same boxes, fewer with the reason, or one sentence.

A spelling changes how something is written and must change nothing. Nonsense in any one place may cost what
it belongs to, which the closing line counts, or the file, in one sentence that names it. Nothing ends in a
traceback, and no box comes out that was not in the file.
"""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from data_recipes import coco_format, output, runner
from rgpt.regions import RLE

PICTURES = {"a.png": (100, 80), "deep/b.jpg": (60, 90), "my photo.png": (80, 80)}
JUNK = (None, True, "", "x", [], {}, [[]], float("nan"), float("inf"), "\ud800", "nan", 10**400)
Values = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The pictures; contact sheets show one sample, drawing more would take most of the time."""
    folder = tmp_path_factory.mktemp("damaged")
    for name, size in PICTURES.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / "images" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "contact_sheet", lambda samples: output.contact_sheet(samples[:1]))
        yield folder


@st.composite
def files(draw: st.DrawFn) -> Values:
    """A valid file: pictures, boxes of whole pixels, some of them with an outline of the same corners."""
    names = draw(st.lists(st.sampled_from(sorted(PICTURES)), min_size=1, max_size=3, unique=True))
    annotations = []
    for number in range(draw(st.integers(1, 4))):
        image = draw(st.integers(1, len(names)))
        width, height = PICTURES[names[image - 1]]
        x, y = draw(st.integers(0, width - 9)), draw(st.integers(0, height - 9))
        w, h = draw(st.integers(3, width - x)), draw(st.integers(3, height - y))
        ring = [x, y, x + w, y, x + w, y + h, x, y + h]
        mask = np.zeros((height, width), dtype=bool)
        mask[y : y + h, x : x + w] = True
        outlines = (
            [],
            [ring],
            RLE.from_mask(mask).to_json()["mask"],
            RLE.from_mask(mask, False).to_json()["mask"],
        )
        annotations.append({
            "id": number, "image_id": image, "category_id": draw(st.integers(0, 1)), "bbox": [x, y, w, h],
            "segmentation": draw(st.sampled_from(outlines)), "area": w * h, "iscrowd": 0,
        })  # fmt: skip
    return {
        "images": [
            {"id": n, "file_name": name, "width": PICTURES[name][0], "height": PICTURES[name][1]}
            for n, name in enumerate(names, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": 0, "name": "cup"}, {"id": 1, "name": "old shoe"}],
    }


def spelled(value: Values, draw: st.DrawFn) -> None:
    """Write one thing, wherever it stands, in another way that means the same."""
    other = draw(st.sampled_from([float, str, lambda n: f"{n}.0"]))
    image, cup = draw(st.sampled_from(value["images"])), draw(st.sampled_from(value["annotations"]))
    x, y, w, h = cup["bbox"]
    ring = [x, y, x + w, y, x + w, y + h, x, y + h]
    change = draw(st.integers(0, 10))
    if change == 0:
        field = draw(st.sampled_from(["image_id", "category_id"]))
        cup[field] = other(cup[field])
    elif change == 1:
        image["id"] = other(image["id"])
    elif change == 2:
        image["width"], image["height"] = other(image["width"]), other(image["height"])
    elif change == 3:
        image.pop(draw(st.sampled_from(["width", "height"])))
    elif change == 4:
        cup["bbox"] = [x + w, y + h, -w, -h]
    elif change == 5:
        cup["bbox"] = [x, y + h, w, -h]
    elif change == 6:
        cup["segmentation"] = draw(
            st.sampled_from([ring, [list(p) for p in zip(ring[::2], ring[1::2], strict=True)]])
        )
        cup["bbox"] = [0, 0, 0, 0]
    elif change == 7:
        cup["segmentation"] = [ring[:4]]
    elif change == 8:
        name = image["file_name"]
        forms = (
            "D:\\set\\" + name.replace("/", "\\"),
            "/home/x/" + name,
            "http://h/" + name.replace(" ", "%20") + "?a=1",
        )
        image["file_name"] = draw(st.sampled_from(forms))
    elif change == 9:
        for entries in (value["images"], value["annotations"], value["categories"]):
            entries.reverse()
    else:
        for entry in value["annotations"]:
            width, height = PICTURES[value["images"][entry["image_id"] - 1]["file_name"]]
            entry["bbox"] = [n / (width, height)[i % 2] for i, n in enumerate(entry["bbox"])]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a file, from the lists down."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from places(part, (*path, key))


def damaged(value: Values, draw: st.DrawFn) -> None:
    """Put nonsense in one place, or take what is there away."""
    *steps, last = draw(st.sampled_from(list(places(value))))
    at: Any = value
    for step in steps:
        at = at[step]
    if draw(st.booleans()):
        at[last] = draw(st.sampled_from(JUNK))
    else:
        del at[last]


def run(text: str, folder: Path) -> tuple[int, str, Counter[tuple[str, str, tuple[int, ...]]], Values]:
    """Exit code, what was said, boxes by picture and name (to whole pixels), the report."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "a.json").write_text(text, encoding="utf-8")
    arguments = ["--annotations", folder / "a.json", "--images", folder / "images", "--out", folder / "out"]
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(said):
        options = [*map(str, arguments), "--form", "detections", "--regions", "box", "--format", "coco"]
        code = runner.main(coco_format.RECIPE, options)
    boxes: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
    if code:
        assert not (folder / "out").exists()
        return code, said.getvalue(), boxes, {}
    for line in (folder / "out" / "detections.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        picture = (folder / "out" / record["image"]).resolve()
        if picture.is_file():
            for region, name in zip(record["regions"], record["names"], strict=True):
                boxes[picture.name, name, tuple(round(n) for n in region["box"])] += 1
    return code, said.getvalue(), boxes, json.loads((folder / "out" / "report.json").read_text())


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_another_spelling_changes_nothing(folder: Path, data: st.DataObject) -> None:
    value = data.draw(files())
    before = run(json.dumps(value), folder)
    spelled(value, data.draw)
    code, said, boxes, report = run(json.dumps(value), folder)
    assert (code, boxes) == (before[0], before[2]) == (0, boxes), said
    assert boxes.total() == len(value["annotations"]) and not report["regions_dropped"]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_nonsense_costs_what_it_belongs_to(folder: Path, data: st.DataObject) -> None:
    value = data.draw(files())
    before = run(json.dumps(value), folder)[2]
    text = json.dumps(value)
    if data.draw(st.integers(0, 9)):
        damaged(value, data.draw)
        text = json.dumps(value)
    else:
        text = text[: data.draw(st.integers(0, len(text) - 1))]
    code, said, boxes, report = run(text, folder)
    assert said.count("\n") == 1
    if code:
        assert code == 2 and ("a.json" in said or "coco_format: samples: expected at least one" in said)
        return
    names = {name for _, name, _ in before}
    unknown = Counter({key: n for key, n in boxes.items() if key[1] in names}) - before
    assert not unknown, said  # a category's name is what the file says it is
    lost = before.total() - boxes.total()
    counted = report["regions_dropped"] or report["dropped"] or report["pictures_missing"]
    assert not lost or counted or len(value.get("annotations") or ()) < before.total(), said
