"""Random files in every form, each damaged once: the same boxes, or one sentence that names the place.

What a file holds is drawn once and written in five formats. A spelling changes how it is written and must
change nothing; nonsense in one field must be refused by row and field; a size that is not the picture's costs
that picture; random bytes may do anything but end in a traceback.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_recipes import coco_format, runner
from data_recipes.detections import Detection

WIDTH, HEIGHT = 100, 80
LABELS = ("cup", "jar", "old shoe")
NAMES = ("a.png", "my photo.png", "deep/b.png")
SIZES = {0: (WIDTH, HEIGHT), 1: (WIDTH, HEIGHT), 2: (WIDTH, HEIGHT)}
"""As the files claim them, by picture."""
NONSENSE = ("", "x", "1x0", "nan", "1e999", "--5", "1_0", "[]")


class Thing(NamedTuple):
    """An object of the file: which picture, which label, its corners."""

    picture: int
    label: int
    corners: tuple[int, int, int, int]


@st.composite
def things(draw: st.DrawFn) -> list[Thing]:
    def one() -> Thing:
        x1, y1 = draw(st.integers(0, WIDTH - 9)), draw(st.integers(0, HEIGHT - 9))
        x2, y2 = draw(st.integers(x1 + 4, WIDTH)), draw(st.integers(y1 + 4, HEIGHT))
        return Thing(draw(st.integers(0, 2)), draw(st.integers(0, 2)), (x1, y1, x2, y2))

    return [one() for _ in range(draw(st.integers(1, 4)))]


class Cell(NamedTuple):
    """One field of one object as it is written, for a damage to replace."""

    thing: int
    field: int


def value(
    item: Thing, n: int, field: int, broken: tuple[Cell, str] | None, numbers: tuple[float, ...]
) -> str:
    """Number `field` of object `n`, or the nonsense in its place."""
    return broken[1] if broken and broken[0] == Cell(n, field) else f"{numbers[field]:.10g}"


def as_table(items: list[Thing], broken: tuple[Cell, str] | None, folder: Path, spelled: int) -> Path:
    separator = ",;\t"[spelled % 3]
    rows = [separator.join(("image", "label", "x1", "y1", "x2", "y2", "width", "height"))]
    for n, item in enumerate(items):
        corners = item.corners[2:] + item.corners[:2] if spelled & 8 else item.corners
        name = NAMES[item.picture]
        name = "D:\\set\\" + name.replace("/", "\\") if spelled & 16 else name
        numbers = (value(item, n, f, broken, corners) for f in range(4))
        cells = [name, LABELS[item.label], *numbers, *map(str, SIZES[item.picture])]
        rows.append(separator.join(cells))
    text = ("\r\n" if spelled & 32 else "\n").join(rows)
    path = folder / "t.csv"
    path.write_bytes(text.encode("utf-16" if spelled & 64 else "utf-8-sig" if spelled & 128 else "utf-8"))
    return path


def as_label_studio(items: list[Thing], broken: tuple[Cell, str] | None, folder: Path, spelled: int) -> Path:
    tasks: dict[int, list[dict]] = {}
    for n, item in enumerate(items):
        x1, y1, x2, y2 = item.corners
        x, y, w, h = x1, y1 * 1.25, x2 - x1, (y2 - y1) * 1.25
        numbers = (x + w, y + h, -w, -h) if spelled & 8 else (x, y, w, h)
        written = dict(zip(("x", "y", "width", "height"), numbers, strict=True))
        if broken and broken[0].thing == n:
            written[list(written)[broken[0].field]] = broken[1]
        result = {"id": f"r{n}", "to_name": "image", "original_width": 100, "original_height": 80}
        if spelled & 32:
            result["original_width"], result["original_height"] = 200, 160
        if spelled & 16:
            results = [
                {**result, "type": "rectangle", "value": written},
                {**result, "type": "labels", "value": {"labels": [LABELS[item.label]]}},
            ]
        else:
            labels = {"rectanglelabels": [LABELS[item.label]]}
            results = [{**result, "type": "rectanglelabels", "value": {**written, **labels}}]
        tasks.setdefault(item.picture, []).extend(results)
    before = ("", "/data/local-files/?d=", "https://host/")[spelled % 3]
    content = [
        {
            "id": key,
            "data": {"image": before + NAMES[key].replace(" ", "%20")},
            "annotations": [{"result": results}],
        }
        for key, results in tasks.items()
    ]
    path = folder / "t.json"
    path.write_text(json.dumps(content), encoding="utf-8-sig" if spelled & 64 else "utf-8")
    return path


def as_cvat(items: list[Thing], broken: tuple[Cell, str] | None, folder: Path, spelled: int) -> Path:
    images = ""
    for n, item in enumerate(items):  # an image an object: exports that were joined repeat them
        corners = item.corners[2:] + item.corners[:2] if spelled & 8 else item.corners
        if spelled & 16:  # turned by 90 degrees around its centre
            (x1, y1, x2, y2) = corners
            x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, y2 - y1, x2 - x1
            corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        written = " ".join(
            f'{key}="{value(item, n, f, broken, corners)}"'
            for f, key in enumerate(("xtl", "ytl", "xbr", "ybr"))
        )
        turn = ' rotation="90"' if spelled & 16 else ""
        size = 'width="{}" height="{}"'.format(*SIZES[item.picture])
        name = NAMES[item.picture].removesuffix(".png" if spelled & 32 else "")
        box = f'<box label="{LABELS[item.label]}" {written}{turn}/>'
        images += f'<image id="{n}" name="{name}" {size}>{box}</image>'
    path = folder / "t.xml"
    text = f"<annotations><version>1.1</version>{images}</annotations>"
    path.write_bytes(text.encode("utf-16" if spelled & 64 else "utf-8"))
    return path


def as_voc(items: list[Thing], broken: tuple[Cell, str] | None, folder: Path, spelled: int) -> Path:
    path = folder / "voc"
    for picture in {item.picture for item in items}:
        name = NAMES[picture]
        objects = ""
        for n, item in enumerate(items):
            if item.picture == picture:
                corners = item.corners[2:] + item.corners[:2] if spelled & 8 else item.corners
                box = "".join(
                    f"<{key}>{value(item, n, f, broken, corners)}</{key}>"
                    for f, key in enumerate(("xmin", "ymin", "xmax", "ymax"))
                )
                objects += f"<object><name>{LABELS[item.label]}</name><bndbox>{box}</bndbox></object>"
        size = (0, 0) if spelled & 16 and SIZES[picture] == (WIDTH, HEIGHT) else SIZES[picture]
        filename = (Path(name).name, "C:\\x\\" + Path(name).name, "")[spelled % 3]
        text = (
            f"<annotation><filename>{filename}</filename><size><width>{size[0]}</width>"
            f"<height>{size[1]}</height></size>{objects}</annotation>"
        )
        file = path / Path(name).with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode("utf-16" if spelled & 64 else "utf-8"))
    return path


def as_yolo(items: list[Thing], broken: tuple[Cell, str] | None, folder: Path, spelled: int) -> Path:
    for picture in {item.picture for item in items}:
        lines = []
        for n, item in enumerate(items):
            if item.picture == picture:
                x1, y1, x2, y2 = (v / side for v, side in zip(item.corners, (100, 80, 100, 80), strict=True))
                outline = (x1, y1, x2, y1, x2, y2, x1, y2)
                numbers = outline if spelled & 8 else ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
                written = [value(item, n, f, broken, numbers) for f in range(len(numbers))]
                lines.append(" ".join([f"{item.label}.0" if spelled & 16 else str(item.label), *written]))
        file = folder / "labels" / Path(NAMES[picture]).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        text = ("\r\n" if spelled & 32 else "\n").join(lines)
        file.write_text(text, encoding="utf-8-sig" if spelled & 64 else "utf-8", newline="")
    if spelled % 3:
        (folder / "labels" / "classes.txt").write_text("\n".join(LABELS))
        return folder / "labels"
    (folder / "data.yaml").write_text(
        json.dumps({"names": list(LABELS) if spelled & 128 else dict(enumerate(LABELS))})
    )
    return folder / "data.yaml"


WRITERS: dict[str, Callable[..., Path]] = {
    "table": as_table, "label studio": as_label_studio, "cvat": as_cvat, "voc": as_voc, "yolo": as_yolo,
}  # fmt: skip


class Answer(NamedTuple):
    code: int
    boxes: Counter
    said: str


class Bench:
    """A folder with the pictures, in which one file after the other is written and read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in NAMES:
            (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / name)

    def write(self, form: str, items: list[Thing], broken: tuple[Cell, str] | None, spelled: int) -> Path:
        for left in self.folder.iterdir():
            if left.name != "images":
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        return WRITERS[form](items, broken, self.folder, spelled)

    def read(self, path: Path) -> Answer:
        out = self.folder / "out"
        given = ["--annotations", path, "--images", self.folder / "images", "--out", out, "--regions", "box"]
        with redirect_stderr(io.StringIO()) as errors, redirect_stdout(io.StringIO()) as said:
            code = runner.main(coco_format.RECIPE, [*map(str, given), "--form", "detections"])
        boxes: Counter = Counter()
        if code == 0:
            for line in (out / "detections.jsonl").read_text().splitlines():
                record = Detection.from_json(json.loads(line), out)
                name = record.image.resolve().relative_to(self.folder.resolve() / "images").as_posix()
                for label, region in zip(record.names, record.regions, strict=True):
                    boxes[name, label, tuple(round(value, 3) for value in region.xyxy)] += 1
            shutil.rmtree(out)
        else:
            assert code == 2 and not out.exists() and errors.getvalue().count("\n") == 1, errors.getvalue()
        return Answer(code, boxes, errors.getvalue() or said.getvalue())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        # Drawing the contact sheet would take most of the time.
        patch.setattr(runner, "contact_sheet", lambda samples: Image.new("RGB", (1, 1)))
        yield Bench(tmp_path_factory.mktemp("damaged"))


def truth(items: list[Thing]) -> Counter:
    return Counter((NAMES[item.picture], LABELS[item.label], item.corners) for item in items)


FORMS = st.sampled_from(sorted(WRITERS))
SPELLED = st.integers(0, 255)


@settings(max_examples=100, deadline=None)
@given(form=FORMS, items=things(), spelled=SPELLED)
def test_spellings_change_nothing(bench: Bench, form: str, items: list[Thing], spelled: int) -> None:
    answer = bench.read(bench.write(form, items, None, spelled))
    assert (answer.code, answer.boxes) == (0, truth(items)), answer.said


PLACE = {
    "table": r"row \d+, [xy][12]:",
    "label studio": r"task \d+, result \d+, (x|y|width|height):",
    "cvat": r"picture '[^']+', shape 1, [xy](tl|br):",
    "voc": r"xml', object \d+, [xy]m(in|ax):",
    "yolo": r"txt', line \d+",
}


@settings(max_examples=100, deadline=None)
@given(form=FORMS, items=things(), spelled=SPELLED, data=st.data())
def test_nonsense_in_a_field_is_named(
    bench: Bench, form: str, items: list[Thing], spelled: int, data: st.DataObject
) -> None:
    cell = Cell(data.draw(st.integers(0, len(items) - 1)), data.draw(st.integers(0, 3)))
    broken = (cell, data.draw(st.sampled_from(NONSENSE)))
    answer = bench.read(bench.write(form, items, broken, spelled))
    assert answer.code == 2 and re.search(PLACE[form], answer.said), answer.said


@settings(max_examples=100, deadline=None)
@given(form=FORMS, items=things(), spelled=SPELLED, data=st.data())
def test_random_bytes_end_in_an_answer_or_a_sentence(
    bench: Bench, form: str, items: list[Thing], spelled: int, data: st.DataObject
) -> None:
    path = bench.write(form, items, None, spelled)
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    file = data.draw(st.sampled_from(files))
    content = file.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.sampled_from([start, start + 1, start + 7, len(content)]))
    file.write_bytes(content[:start] + data.draw(st.binary(max_size=3)) + content[end:])
    answer = bench.read(path)
    assert sum(answer.boxes.values()) <= len(items)


@settings(max_examples=50, deadline=None)
@given(form=st.sampled_from(["table", "cvat", "voc"]), items=things(), spelled=SPELLED, data=st.data())
def test_a_wrong_size_costs_its_picture_alone(
    bench: Bench, form: str, items: list[Thing], spelled: int, data: st.DataObject
) -> None:
    """And no box is moved by it; nothing is left out in silence."""
    wrong = data.draw(st.integers(0, 2))
    sizes = {wrong: data.draw(st.sampled_from([(100, 50), (640, 480), (7, 7)]))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, wrong, sizes[wrong])
        answer = bench.read(bench.write(form, items, None, spelled))
    kept = [item for item in items if item.picture != wrong]
    assert answer.boxes == truth(kept)
    assert answer.code == (0 if kept else 2)
    assert len(kept) == len(items) or "size is not the picture's" in answer.said
