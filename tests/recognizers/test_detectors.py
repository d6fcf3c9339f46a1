"""Detectors of every kind behind one door: what they share, what each refuses, edges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rgpt.errors import InputError
from rgpt.recognizers import name_everything, save_recognizer
from rgpt.recognizers.detectors import Named, detector_kind, open_detector
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.regionclip_detector import RegionClipDetector, save_transfer
from rgpt.recognizers.rovit_detector import DetectorConfig, RoVitDetector, save_detector
from rgpt.recognizers.vocabulary import mark_base
from rgpt.regions import Box, Mask, Region
from tests.recognizers.tiny_recognizers import make, picture, some_regions

NAMES = ("red car", "tree", "dog")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of every kind of detector, and proposals of picture 1."""
    path = tmp_path_factory.mktemp("detectors")
    torch.manual_seed(0)
    config = DetectorConfig(channels=16, fully_connected=16, post_nms=20, per_image=30)
    save_detector(RoVitDetector(make("rovit"), config), path / "rovit-detector")  # type: ignore[arg-type]
    save_transfer(RegionClipDetector(make("regionclip")), path / "regionclip-transfer")  # type: ignore[arg-type]
    for kind in ("regionspot", "clip-crop", "clip-pooled", "regionclip", "rovit"):
        save_recognizer(make(kind), path / kind)
    rows = [
        {"image_id": 1, "bbox": [3, 4, 27, 24], "score": 0.9},
        {"image_id": 1, "bbox": [3, 4, 26, 24], "score": 0.4},
        {"image_id": 1, "bbox": [30, 2, 15, 30], "score": 0.7},
    ]
    (path / "boxes.json").write_text(json.dumps(rows))
    (path / "nothing.json").write_text("[]")
    return path


def source(*regions: Region, scores: list[float] | None = None):
    """A source that always finds these."""
    values = None if scores is None else torch.tensor(scores)
    return lambda image, image_id=None: RegionSet(regions, image.height, image.width, values)


WAYS = [
    ("rovit-detector", None),
    ("rovit-detector@rovit-detector", None),
    ("regionclip-transfer", "boxes"),
    ("regionspot", "boxes"),
    ("clip-pooled@clip-pooled", "boxes"),
    ("rovit-detector", "as a recognizer"),
]


def opened(root: Path, name: str, given: str | None, **options):
    """The detector of a name relative to `root`; by default the folder itself is named."""
    kind, _, folder = name.partition("@")
    model = f"{kind}@{root / folder}" if folder else str(root / kind)
    if given == "as a recognizer":  # the frozen tower of a detector's folder, on given regions
        model, given = f"rovit@{root / kind}", "boxes"
    return open_detector(model, None if given is None else f"json:{root / given}.json", **options)


@pytest.mark.parametrize(("name", "given"), WAYS)
def test_every_way_gives_one_kind_of_detections(root: Path, name: str, given: str | None) -> None:
    detector = opened(root, name, given)
    found = detector.detect(picture(), NAMES, 1)
    assert 0 < len(found) <= 30 and found.masks is None
    assert len(found.boxes) == len(found.scores) == len(found.labels) == len(found.region)
    assert (found.scores.diff() <= 0).all() and (found.scores > 0).all()
    assert set(found.labels.tolist()) <= {0, 1, 2}
    assert (
        (found.boxes >= 0).all() and (found.boxes[:, 2] <= 50.01).all() and (found.boxes[:, 3] <= 40.01).all()
    )
    again = detector.detect(picture(), NAMES, 1)
    assert torch.equal(found.boxes, again.boxes) and torch.equal(found.scores, again.scores)
    middle = float(found.scores.median())
    above = opened(root, name, given, floor=middle, per_image=2).detect(picture(), NAMES, 1)
    expected = found.best(2, middle)
    assert torch.equal(above.scores, expected.scores) and torch.equal(above.boxes, expected.boxes)


@pytest.mark.parametrize(("name", "given"), WAYS)
def test_edges(root: Path, name: str, given: str | None) -> None:
    detector = opened(root, name, given)
    twice = detector.vocabulary(["tree", "Tree", "small dog", "small_dog"])
    assert twice.names == ("tree", "small dog")
    assert set(detector.detect(picture(), twice, 1).labels.tolist()) <= {0, 1}
    if given == "boxes":
        nothing = open_detector(str(root / name.partition("@")[0]), f"json:{root / 'nothing.json'}")
        assert len(nothing.detect(picture(), NAMES, 1)) == 0
    pixel = Image.new("RGB", (1, 1), "red")
    if given is not None:
        detector.source = source(Box(0, 0, 1, 1), scores=[0.5])
    found = detector.detect(pixel, NAMES, 1)
    assert (found.boxes >= 0).all() and (found.boxes <= 1.01).all()
    with pytest.raises(InputError, match="at least one name"):
        detector.detect(picture(), [], 1)


def test_a_named_detection_is_recognize_then_pairs(root: Path) -> None:
    """Against the stages written out: softmax, product with objectness, suppression within a name."""
    regions = (Box(3, 4, 30, 28), Box(30, 2, 45, 32), Box(3, 4, 29, 28))
    detector = open_detector(str(root / "regionspot"), source(*regions, scores=[0.9, 0.7, 0.4]))
    found = detector.detect(picture(), NAMES)
    given = RegionSet(regions, 40, 50)
    probs = make("regionspot").recognize([picture()], [given], NAMES)[0].probs
    expected = []
    for region, objectness in ((0, 0.9), (1, 0.7), (2, 0.4)):
        for label in range(3):
            expected.append((float(probs[region, label]) * objectness, region, label))
    best_of_two = {
        label: max((s, r) for s, r, own in expected if own == label and r != 1)[1] for label in range(3)
    }
    expected = [(s, r, own) for s, r, own in expected if r == 1 or best_of_two[own] == r]
    expected.sort(reverse=True)
    assert list(zip(found.region.tolist(), found.labels.tolist(), strict=True)) == [e[1:] for e in expected]
    torch.testing.assert_close(found.scores, torch.tensor([e[0] for e in expected]))
    kept = open_detector(str(root / "regionspot"), source(*regions, scores=[0.9, 0.7, 0.4]), nms=1.0)
    assert len(kept.detect(picture(), NAMES)) == 9


def test_the_pairs_are_cut_before_objectness(root: Path) -> None:
    """RegionSpot keeps the likeliest pairs, 900 as published, whatever the source thinks of their regions."""
    regions = (Box(3, 4, 30, 28), Box(30, 2, 45, 32))
    detector = open_detector(str(root / "regionspot"), source(*regions, scores=[1.0, 0.01]), nms=1.0)
    assert isinstance(detector, Named) and detector.recognizer.pairs == 900
    detector.recognizer.pairs = 2
    probs = make("regionspot").recognize([picture()], [RegionSet(regions, 40, 50)], NAMES)[0].probs
    wanted = {divmod(i, 3) for i in probs.flatten().topk(2).indices.tolist()}
    found = detector.detect(picture(), NAMES)
    assert set(zip(found.region.tolist(), found.labels.tolist(), strict=True)) == wanted


def test_with_one_name_detection_is_naming_everything(root: Path) -> None:
    regions, scores = some_regions(), [0.5, 0.9, 0.2]
    found = open_detector(str(root / "regionspot"), source(*regions, scores=scores), nms=1.0).detect(
        picture(), ["thing"]
    )
    given = RegionSet(tuple(regions), 40, 50, torch.tensor(scores))
    everything = name_everything(picture(), make("regionspot"), ["thing"], given, iou=None)
    assert found.scores.tolist() == pytest.approx([one.score for one in everything])
    boxes = [one.region.bounds(40, 50).xyxy for one in everything]
    assert found.boxes.tolist() == [pytest.approx(box) for box in boxes]


# ------------------------------------------------------------------------------------------------ masks


def test_masks_are_the_proposals_own(root: Path) -> None:
    pixels = np.zeros((40, 50), dtype=bool)
    pixels[5:20, 8:30] = True
    detector = open_detector(str(root / "clip-crop"), source(Mask(pixels)), masks=True)
    found = detector.detect(picture(), NAMES)
    assert len(found) == 3 and found.masks is not None
    for mask in found.masks:
        assert mask is not None and (mask.to_mask(40, 50) == pixels).all()


def test_sam_paints_the_masks_of_regionspot(root: Path) -> None:
    """Of the kept regions alone, each once, and the same as the recognizer's own."""
    regions = (Box(3, 4, 30, 28), Box(30, 2, 45, 32))
    found = open_detector(str(root / "regionspot"), source(*regions), masks=True).detect(picture(), NAMES)
    spot = make("regionspot")
    expected = spot.masks(spot.encode_images([picture()])[0], RegionSet(regions, 40, 50)).numpy()
    assert found.masks is not None and len(found.masks) == 6
    for region, mask in zip(found.region.tolist(), found.masks, strict=True):
        painted = np.zeros((40, 50), dtype=bool) if mask is None else mask.to_mask(40, 50)
        assert (painted == expected[region]).all()


def test_the_mask_head_of_rovit(root: Path) -> None:
    found = open_detector(str(root / "rovit-detector"), masks=True).detect(picture(), NAMES)
    assert found.masks is not None and len(found.masks) == len(found) and any(found.masks)
    bare = open_detector(str(root / "rovit-detector")).detect(picture(), NAMES)
    assert torch.equal(bare.boxes, found.boxes) and bare.masks is None


def test_boxes_have_no_masks(root: Path) -> None:
    detector = open_detector(str(root / "clip-crop"), source(Box(3, 4, 30, 28)), masks=True)
    with pytest.raises(InputError, match="masks: expected proposals that are masks, got a box of given"):
        detector.detect(picture(), NAMES)


# ------------------------------------------------------------------------------------- names, base and novel


def test_a_detector_weighs_names_it_was_not_trained_with_otherwise(root: Path) -> None:
    """A novel name leans on the frozen tower: another weight, other scores, the same call."""
    detector = open_detector(str(root / "rovit-detector"))
    all_base = detector.detect(picture(), detector.vocabulary(NAMES, (True, True, True)))
    one_novel = detector.detect(picture(), detector.vocabulary(NAMES, mark_base(NAMES, ("red_car", "Tree"))))
    unknown = detector.detect(picture(), NAMES)
    all_novel = detector.detect(picture(), detector.vocabulary(NAMES, (False, False, False)))
    assert not torch.equal(all_base.scores, one_novel.scores)
    assert torch.equal(unknown.scores, all_novel.scores)


def test_base_names_are_marked_as_a_text_encoder_reads_them() -> None:
    assert mark_base(("Red Car", "tree", "sofa_bed"), ("red_car", "sofa bed")) == (True, False, True)
    with pytest.raises(InputError, match=r"base names: expected some of the 1 names .* got also 'dgo'"):
        mark_base(("dog",), ("dog", "dgo"))


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("name", "proposals", "masks", "says"),
    [
        ("rovit-detector", "sam:x", False, "expected none, for it proposes by itself, got 'sam:x'"),
        ("rovit-detector", "gt", False, "expected none, for it proposes by itself"),
        ("regionclip-transfer", None, False, "expected a source of regions, got none"),
        ("regionspot", None, False, "expected a source of regions, got none"),
        ("regionspot", "gt", False, "a source that finds regions, got gt"),
        ("regionspot", "magic:x", False, "proposals 'magic:x'"),
        ("regionspot", "json:nowhere.json", False, "a JSON file of detections"),
        ("regionclip-transfer", "json:x.json", True, "masks of .* got regionclip-transfer"),
        ("clip-crop", "rovit:x", True, "masks of .* got proposals 'rovit:x'"),
    ],
)
def test_what_cannot_work_together_is_refused(
    root: Path, name: str, proposals: str | None, masks: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for opener in ("open_recognizer", "load_detector", "load_transfer"):  # before any weights are read
        monkeypatch.setattr(f"rgpt.recognizers.detectors.{opener}", lambda *_: pytest.fail("opened"))
    with pytest.raises(InputError, match=says):
        open_detector(str(root / name), proposals, masks=masks)


@pytest.mark.parametrize(
    ("name", "proposals", "says"),
    [
        ("rovit-detectr@x", None, "detector 'rovit-detectr@x': expected a folder, or one of rovit-detector"),
        ("nowhere/at/all", None, "detector 'nowhere/at/all'"),
        ("rovit-detector@{root}/rovit", None, "got one without detector.json"),
        ("rovit-detector@{root}/regionclip-transfer", None, "expected a folder of the recipe rovit-detector"),
        ("regionclip-transfer@{root}/regionclip", "json:{root}/boxes.json", "got one without detector.json"),
        ("rovit-detector", None, "runs/recognizers/rovit-detector, got nothing there"),
    ],
)
def test_an_unknown_detector_is_one_sentence(
    root: Path, tmp_path: Path, name: str, proposals: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = proposals and proposals.format(root=root)
    with pytest.raises(InputError, match=says) as caught:
        open_detector(name.format(root=root), given)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_here(root: Path) -> None:
    with pytest.raises(InputError, match="device 'abacus'"):
        open_detector(str(root / "rovit-detector"), device="abacus")


def test_kinds(root: Path) -> None:
    assert detector_kind(str(root / "rovit-detector")) == "rovit-detector"
    assert detector_kind(str(root / "regionclip-transfer")) == "regionclip-transfer"
    assert detector_kind(str(root / "rovit")) == detector_kind("clip-crop") == detector_kind("rovit@x") == ""


def test_a_mask_head_without_boxes(root: Path) -> None:
    """Nothing above the detector's own floor: no boxes, no masks, no error."""
    detector = open_detector(str(root / "rovit-detector"), masks=True)
    detector.network.config.floor = 2.0
    found = detector.detect(picture(), NAMES)
    assert len(found) == 0 and found.masks == () and found.boxes.shape == (0, 4)
