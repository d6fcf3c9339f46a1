"""Every recognizer through the one interface: the same pictures, regions and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rgpt.errors import InputError
from rgpt.recognizers import load_recognizer, save_recognizer
from rgpt.recognizers.region_set import RegionSet
from rgpt.regions import RLE, Box, Mask, Point, Polygon, Scribble
from tests.recognizers.tiny_recognizers import CONFIGS, make, picture, some_regions

NAMES = ("red car", "blue car", "tree", "person", "small_dog")


@pytest.fixture(scope="module", params=CONFIGS)
def recognizer(request):
    return make(request.param)


def test_two_pictures_three_regions_five_names(recognizer) -> None:
    images = [picture(1), picture(2, 36, 60)]
    regions = [some_regions(), some_regions(36, 60)]
    found = recognizer.recognize(images, regions, NAMES)
    for scores in found:
        assert scores.logits.shape == scores.probs.shape == (3, 5)
        assert torch.isfinite(scores.logits).all()
        assert (scores.probs >= 0).all() and (scores.probs.sum(1) <= 1 + 1e-5).all()
        assert scores.topk(2)[0][0][1] >= scores.topk(2)[0][1][1]
        assert scores.labels() == [row[0][0] for row in scores.topk(1)]
    again = recognizer.recognize(images, regions, NAMES)
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(found, again, strict=True))
    for i in (0, 1):  # a picture's scores do not depend on what else is in the batch
        alone = recognizer.recognize(images[i : i + 1], regions[i : i + 1], NAMES)[0]
        torch.testing.assert_close(alone.logits, found[i].logits, atol=2e-4, rtol=1e-4)


def test_training_mode_leaves_no_trace(recognizer) -> None:
    before = recognizer.recognize([picture()], [some_regions()], NAMES)[0].logits
    recognizer.train().eval()
    assert torch.equal(recognizer.recognize([picture()], [some_regions()], NAMES)[0].logits, before)


@pytest.mark.parametrize("count", [0, 1])
def test_few_regions(recognizer, count: int) -> None:
    scores = recognizer.recognize([picture()], [some_regions()[:count]], NAMES)[0]
    assert scores.probs.shape == (count, 5)
    assert len(scores.topk()) == len(scores.labels()) == count
    assert len(scores.detections().scores) == 5 * count


def test_no_regions_beside_some(recognizer) -> None:
    empty, full = recognizer.recognize([picture(1), picture(2)], [[], some_regions()], NAMES)
    assert empty.probs.shape == (0, 5) and full.probs.shape == (3, 5)
    assert recognizer.recognize([], [], NAMES) == []


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 60), (2000, 3), (17, 900)])
def test_specks_and_strips_of_pictures(recognizer, width: int, height: int) -> None:
    regions = [Box(0, 0, width, height), Box(width - 0.4, height - 0.4, width + 9, height), Point(0, 0)]
    scores = recognizer.recognize([picture(0, width, height)], [regions], NAMES)[0]
    assert scores.probs.shape == (3, 5) and torch.isfinite(scores.probs).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_other_modes_are_looked_at_as_rgb(recognizer, mode: str) -> None:
    image = picture().convert(mode)
    found = recognizer.recognize([image], [some_regions()], NAMES)[0]
    expected = recognizer.recognize([image.convert("RGB")], [some_regions()], NAMES)[0]
    assert torch.equal(found.logits, expected.logits)


def test_a_thousand_regions(recognizer) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 30, (1000, 2))
    regions = [
        Box(x, y, x + w, y + h) for (x, y), (w, h) in zip(corner, rng.uniform(1, 20, (1000, 2)), strict=True)
    ]
    scores = recognizer.recognize([picture()], [regions], NAMES)[0]
    assert scores.probs.shape == (1000, 5) and torch.isfinite(scores.probs).all()
    if recognizer.independent_regions:
        some = recognizer.recognize([picture()], [regions[497:500]], NAMES)[0]
        torch.testing.assert_close(scores.logits[497:500], some.logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["clip-crop", "clip-masked-crop"])
def test_no_more_crops_are_held_than_a_block(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, held = make(name), []
    whole = clip.recognize([picture()], [some_regions() * 3], NAMES)[0].logits
    cut = clip.crops  # type: ignore[union-attr]

    def counted(*given):
        held.append(cut(*given))
        return held[-1]

    monkeypatch.setattr("rgpt.recognizers.clip.CROP_BLOCK", 4)
    monkeypatch.setattr(clip, "crops", counted)
    found = clip.recognize([picture()], [some_regions() * 3], NAMES)[0].logits
    torch.testing.assert_close(found, whole, atol=2e-4, rtol=1e-4)
    assert [len(own) for own in held] == [4, 4, 1]


def test_regions_can_be_permuted(recognizer) -> None:
    regions = some_regions()
    straight = recognizer.recognize([picture()], [regions], NAMES)[0].logits
    turned = recognizer.recognize([picture()], [regions[::-1]], NAMES)[0].logits
    torch.testing.assert_close(turned.flip(0), straight, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (
            [Box(0, 0, 5, 5), Mask(np.ones((7, 9), bool))],
            "region 2: mask: expected the size of the picture, 50 x 40",
        ),
        ([RLE.from_mask(np.ones((7, 9), bool))], "region 1: RLE"),
        ([Box(60, 0, 70, 5)], "region 1: box"),
        (["box"], "region 1: expected a region"),
        (RegionSet((Box(0, 0, 5, 5),), 99, 99), "regions of picture 1"),
    ],
)
def test_wrong_regions(recognizer, regions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recognizer.recognize([picture()], [regions], NAMES)


def test_wrong_vocabularies(recognizer) -> None:
    with pytest.raises(InputError, match="vocabulary: expected at least one name"):
        recognizer.recognize([picture()], [some_regions()], ())
    with pytest.raises(InputError, match="one set a picture, 1"):
        recognizer.recognize([picture()], [], NAMES)


def test_duplicate_names_are_one_class(recognizer) -> None:
    twice = recognizer.recognize([picture()], [some_regions()], ("tree", "small dog", "tree", "small_dog"))[0]
    once = recognizer.recognize([picture()], [some_regions()], ("tree", "small dog"))[0]
    assert twice.names == ("tree", "small dog")
    torch.testing.assert_close(twice.probs, once.probs)


def test_every_form_of_region(recognizer) -> None:
    """Also at the border and half outside; a mask and its run lengths are the same region."""
    mask = Mask(np.eye(40, 50, dtype=bool))
    regions = [
        Point(49, 39), Box(-5, -5, 3, 4), Polygon([[0, 0], [50, 0], [50, 40]]),
        Scribble([[1, 1], [30, 39]], 3), mask, RLE.from_mask(mask.array),
    ]  # fmt: skip
    scores = recognizer.recognize([picture()], [regions], NAMES)[0]
    assert scores.probs.shape == (6, 5) and torch.isfinite(scores.logits).all()
    torch.testing.assert_close(scores.logits[4], scores.logits[5])


def test_saved_and_loaded(recognizer, tmp_path: Path) -> None:
    save_recognizer(recognizer, tmp_path)
    again = load_recognizer(tmp_path)
    expected = recognizer.recognize([picture()], [some_regions()], NAMES)[0].logits
    assert torch.equal(again.recognize([picture()], [some_regions()], NAMES)[0].logits, expected)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="save it again"):
        load_recognizer(tmp_path)
