"""What is to be annotated: COCO, Label Studio, CVAT, VOC, YOLO, our samples, or a folder of pictures.

Every source gives its pictures with their objects, as often as it is asked, and is counted before any work.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rgpt.annotate.records import Target, TargetPicture
from rgpt.data.schema import read_jsonl
from rgpt.errors import InputError
from rgpt.files import file_sha256, sha256, write_json
from rgpt.formats.coco import CocoFile, id_key
from rgpt.formats.own_files import OwnFile, format_of, region_of
from rgpt.formats.paths import check_folder, holds_pictures
from rgpt.formats.size_claims import ANOTHER_SIZE, upright_size
from rgpt.regions import Box

FORMATS = ("coco", "label-studio", "cvat", "voc", "yolo", "jsonl", "folder")
NO_REGION = "picture without a size"


class Reader(Protocol):
    """Pictures with their objects, in the file's order. Objects that are no regions are counted in
    `skipped`, anew each time."""

    skipped: Counter[str]
    labels: tuple[str, ...]

    def pictures(self) -> Iterator[TargetPicture]: ...


@dataclass(frozen=True)
class Source:
    """An opened source.

    Args:
        kind: one of FORMATS.
        path: what was named; of a folder of pictures the file of its proposed regions.
        images: the folder of the pictures.
        digest: of everything that decides which objects there are.
        total: objects. keys: theirs, in order.
        labels: that the file calls objects by, in order of first use.
        skipped: objects that cannot be asked about, by reason; they stay in the output as they are.
    """

    kind: str
    path: Path
    images: Path
    digest: str
    reader: Reader
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return len(self.keys)

    def pictures(self) -> Iterator[TargetPicture]:
        return self.reader.pictures()


def kind_of(path: Path, told: str | None) -> str:
    """One of FORMATS: as told, or by what the file or folder holds. Raises InputError."""
    if not path.exists():
        raise InputError.about(f"source {str(path)!r}", "a file or folder", "nothing at this path")
    if told:
        return told
    if path.is_file() and path.suffix.lower() == ".jsonl":
        return "jsonl"
    if path.is_dir() and not any(next(path.rglob(glob), None) for glob in ("*.xml", "*.txt")):
        if holds_pictures(path):
            return "folder"
        raise InputError.about(
            f"source {str(path)!r}", "annotations or pictures", "neither in it", "name another folder"
        )
    kind = format_of(path)
    if kind not in FORMATS:
        raise InputError.about(f"source {str(path)!r}", f"one of {', '.join(FORMATS)}", kind)
    return kind


def images_beside(path: Path) -> Path:
    """Where pictures usually lie: in `images/` beside the file, in or beside the folder; else beside it."""
    folder = path if path.is_dir() else path.parent
    places = [
        folder / "images",
        folder / "JPEGImages",
        folder.parent / "JPEGImages",
        folder.parent / "images",
    ]
    return next((place for place in places if place.is_dir()), folder)


def open_source(path: Path, kind: str, images: Path, scratch: Path) -> Source:
    """Read the source once.

    Args:
        scratch: an existing folder for what waits on disk; the caller removes it.

    Raises:
        InputError: it cannot be read, a picture is missing, an object is there twice, or there is none.
    """
    reader: Reader
    if kind == "coco":
        reader = _Coco(path, images, scratch)
    elif kind == "jsonl":
        reader = _Samples(path)
    else:
        reader = _Own(kind, path, images, scratch)
    keys: dict[str, None] = {}
    labels: dict[str, None] = {}
    missing: Path | None = None
    for picture in reader.pictures():
        if picture.targets and not picture.path.is_file():
            missing = missing or picture.path
        for target in picture.targets:
            if target.key in keys:
                raise InputError.about(
                    f"source {str(path)!r}, object {target.key}",
                    "every object once",
                    "it twice",
                    "renumber it",
                )
            keys[target.key] = None
            if target.label:
                labels[target.label] = None
    if not keys:
        why = ", ".join(f"{n} x {reason}" for reason, n in reader.skipped.items()) or "none"
        raise InputError.about(f"source {str(path)!r}", "objects to ask about", why, "check --images")
    if missing is not None:
        raise InputError.about(
            f"picture {str(missing)!r}", "a file", "nothing at this path", "check --images"
        )
    known = reader.labels or tuple(labels)
    return Source(kind, path, images, digest_of(path), reader, tuple(keys), known, Counter(reader.skipped))


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's annotation files."""
    if path.is_file():
        return file_sha256(path)
    files = sorted(file for file in path.rglob("*") if file.suffix in (".xml", ".txt", ".yaml"))
    return sha256("\n".join(f"{file.relative_to(path)} {file_sha256(file)}" for file in files))


class _Coco:
    def __init__(self, path: Path, images: Path, scratch: Path) -> None:
        self.file = CocoFile(path, scratch, images)
        self.skipped: Counter[str] = Counter()
        self.labels = tuple(dict.fromkeys(self.file.names.values()))

    def pictures(self) -> Iterator[TargetPicture]:
        self.skipped.clear()
        for picture in self.file.pictures():
            if picture.placement is None or picture.path is None:
                self.skipped[picture.problem] += len(picture.annotations)
                continue
            targets = []
            for text in picture.annotations:
                entry = json.loads(text)
                region = self.file.geometry.read(entry, picture.placement)
                key = id_key(entry.get("id"))
                if region.box is None or key is None:
                    self.skipped[region.problem or "annotation without an id"] += 1
                    continue
                label = self.file.name(entry.get("category_id")) or ""
                targets.append(Target(key, region.mask or region.box, region.box, label))
            yield TargetPicture(self.file.name_of(picture.entry), picture.path, tuple(targets))


class _Own:
    labels: tuple[str, ...] = ()

    def __init__(self, kind: str, path: Path, images: Path, scratch: Path) -> None:
        self.file, self.images = OwnFile(kind, path, images, scratch), images
        self.skipped: Counter[str] = Counter()

    def pictures(self) -> Iterator[TargetPicture]:
        self.skipped.clear()
        for record in self.file.records():
            objects = record.objects()
            try:
                placement = record.placement()
            except InputError:
                self.skipped[ANOTHER_SIZE] += len(objects)
                continue
            if placement is None:
                self.skipped[NO_REGION] += len(objects)
                continue
            targets = []
            for item, unit in objects:
                region = region_of(item, unit, placement)
                if region.box is None:
                    self.skipped[region.problem] += 1
                else:
                    targets.append(
                        Target(item.key, region.mask or region.box, region.box, item.label.strip())
                    )
            yield TargetPicture(record.key, self.images / record.key, tuple(targets))


class _Samples:
    """Our JSONL: every region of a sample is an object, named by the sample's id, # and its number."""

    labels: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped: Counter[str] = Counter()

    def pictures(self) -> Iterator[TargetPicture]:
        self.skipped.clear()
        for sample in read_jsonl(self.path):
            if sample.image is None:
                continue
            size = upright_size(sample.image) if sample.image.is_file() else None
            targets = []
            for number, region in enumerate(sample.regions, start=1):
                try:
                    box = region.bounds(*size) if size else Box(0, 0, 1, 1)
                except InputError:
                    self.skipped["region outside the picture"] += 1
                    continue
                targets.append(Target(f"{sample.id}#{number}", region, box))
            name = Path(os.path.relpath(sample.image, self.path.parent)).as_posix()
            yield TargetPicture(name, sample.image, tuple(targets))


def propose_regions(folder: Path, proposals: str, most: int, file: Path) -> None:
    """Write `file`, COCO's layout, with the regions that a source finds on every picture of a folder.

    What finds them has one place, here; the objects' ids are stable because they are found once.

    Args:
        proposals: as `rgpt.recognizers.proposals.open_source` takes them.
        most: regions of a picture, the best.

    Raises:
        InputError: no pictures, or no such source.
    """
    from tqdm import tqdm

    from rgpt.formats.coco import as_segmentation
    from rgpt.formats.paths import ENDINGS
    from rgpt.recognizers.proposals import open_source as open_proposals
    from rgpt.recognizers.proposals import propose
    from rgpt.regions import RLE, Mask, Polygon, open_image

    check_folder(folder)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not paths:
        raise InputError.about(f"source {str(folder)!r}", "pictures", "none in it", "name another folder")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    source = open_proposals(proposals)
    for number, path in enumerate(tqdm(paths, "proposing", delay=2, disable=None), start=1):
        image, name = open_image(path), path.relative_to(folder).as_posix()
        images.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        for region in propose(image, source, image_id=name, most=most).regions:
            box = region.bounds(image.height, image.width)
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
            }
            entry |= {"bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1], "area": box.area}
            if isinstance(region, Mask):
                region = region.to_rle()
            if isinstance(region, Polygon | RLE):
                entry["segmentation"] = as_segmentation(region)
            annotations.append(entry)
    info = {"proposals": proposals, "most": most}
    categories = [{"id": 1, "name": "object"}]
    value = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, value)
