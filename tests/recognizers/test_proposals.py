"""Every source of proposals behind one call, and everything of a picture named in one call."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from rgpt.errors import InputError
from rgpt.recognizers import name_everything, save_recognizer
from rgpt.recognizers.proposals import (
    GroundingDinoProposals,
    RpnProposals,
    SamEverything,
    best,
    open_source,
    propose,
    sam_settings,
)
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.rovit_detector import DetectorConfig, RoVitDetector, save_detector
from rgpt.regions import RLE, Box, Mask
from tests.recognizers.tiny_recognizers import SAM, make, picture


def check(found: RegionSet, image: Image.Image) -> None:
    """What every source promises."""
    assert (found.height, found.width) == (image.height, image.width)
    boxes = found.as_boxes()
    assert (boxes[:, 2] > boxes[:, 0]).all() and (boxes[:, 3] > boxes[:, 1]).all()
    assert (boxes >= 0).all() and (boxes[:, 2] <= image.width).all() and (boxes[:, 3] <= image.height).all()
    if found.scores is not None:
        assert (found.scores[:-1] >= found.scores[1:]).all()


def test_given_regions() -> None:
    found = propose(picture(), "gt", [Box(1, 2, 10, 12), Mask(np.ones((40, 50), bool))])
    assert len(found) == 2 and found.scores is not None and found.scores.tolist() == [1.0, 1.0]


def test_a_file_of_regions_by_picture(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    mask = Mask(np.eye(40, 50, dtype=bool)).to_json()
    file.write_text(json.dumps({"a": [{"box": [0, 0, 9, 9], "score": 0.1}, {**mask, "score": 0.7}], "b": []}))
    found = propose(picture(), f"json:{file}", image_id="a")
    check(found, picture())
    assert isinstance(found.regions[0], RLE) and found.source == "found.json"
    assert len(propose(picture(), f"json:{file}", image_id="b")) == 0
    with pytest.raises(InputError, match="an entry for picture nobody, got entries of 2 others"):
        propose(picture(), f"json:{file}", image_id="nobody")
    assert len(propose(picture(), f"json:{file}", image_id="a", most=1)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1]]", "rows with image_id"),
        ("3", "a list or an object"),
        ("{", "a JSON file"),
        ('[{"image_id": 1, "bbox": [90, 90, 5, 5]}]', "region 1"),
        ('[{"image_id": 1, "score": 1}]', "sound detections of picture 1"),
        ('[{"image_id": 1, "bbox": [0, 0, 0, 5]}]', "sound detections of picture 1"),
        ('[{"image_id": 1, "bbox": [0, 0, 5, 5], "score": NaN}]', "a score of nan"),
        ('{"1": 3}', "a list of detections of picture 1, got 3"),
        ('{"1": {"box": [0, 0, 1, 1]}}', "a list of detections of picture 1"),
        ('{"1": [3]}', "a list of detections of picture 1"),
        ('{"images": [], "annotations": [], "categories": []}', "got annotations of a data set"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "found.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        open_source(f"json:{file}")(picture(), 1)


def test_a_file_of_several_pictures_needs_an_id(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    file.write_text('{"a": [{"box": [0, 0, 9, 9]}], "b": []}')
    with pytest.raises(
        InputError, match="expected an image id, got none, and 2 pictures; say which is meant"
    ):
        propose(picture(), f"json:{file}")


@pytest.mark.parametrize(
    "name", ["magic:x", "sam", "json:", "", "rpn:nowhere", "sam:/nowhere", "rovit:/nowhere"]
)
def test_wrong_sources(name: str) -> None:
    with pytest.raises(InputError):
        open_source(name)


def test_the_rpn_of_a_torchvision_detector(tmp_path: Path) -> None:
    """Its proposals lie in the pixels of the picture, though the detector resizes."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "rpn.safetensors")
    model.transform.min_size, model.transform.max_size = (64,), 80
    source = RpnProposals(model, most=20)
    found = source(picture())
    check(found, picture())
    assert 0 < len(found) <= 20 and found.logits is not None and found.scores is not None
    torch.testing.assert_close(found.logits.sigmoid(), found.scores, atol=1e-4, rtol=0)
    opened = RpnProposals.from_file(str(tmp_path / "rpn.safetensors"))
    torch.testing.assert_close(
        opened.model.rpn.head.cls_logits.weight, model.rpn.head.cls_logits.weight, atol=0, rtol=0
    )


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        ("points_per_crop=16&pred_iou_thresh=0.5", {"points_per_crop": 16, "pred_iou_thresh": 0.5}),
        ("speed=3", "speed=3"),
        ("points_per_crop=many", "points_per_crop=many"),
        ("points_per_crop", "points_per_crop"),
    ],
)
def test_settings_of_sam(text: str, settings: dict | str) -> None:
    if isinstance(settings, dict):
        assert sam_settings(text) == settings
    else:
        with pytest.raises(InputError, match=settings):
            open_source(f"sam:FOLDER?{text}")


def test_sam_everywhere() -> None:
    from transformers import SamImageProcessor, SamModel

    from rgpt.recognizers.sam import sam_config

    torch.manual_seed(0)
    processor = SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 32}, mask_pad_size={"height": 32, "width": 32},
    )  # fmt: skip
    model = SamModel(sam_config(SAM)).eval()
    settings = {"points_per_crop": 2, "pred_iou_thresh": -9.0, "stability_score_thresh": -1.0}
    found = SamEverything(model, processor, **settings)(picture())
    check(found, picture())
    assert all(isinstance(region, Mask) for region in found.regions)
    nothing = SamEverything(model, processor, **{**settings, "pred_iou_thresh": 99.0})(picture())
    assert len(nothing) == 0 and nothing.as_boxes().shape == (0, 4)


def test_grounding_dino_boxes_are_in_pixels() -> None:
    """A ten-line fake of the network: two boxes, given relative and by their centres."""

    class Network(torch.nn.Module):
        def forward(self, **inputs: torch.Tensor) -> object:
            self.asked = inputs
            logits = torch.tensor([[[-9.0, 2.0], [3.0, -9.0], [-9.0, -9.0]]])
            boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 1, 1]]])
            return type("Output", (), {"logits": logits, "pred_boxes": boxes})

    said = []

    def processor(images: Image.Image, text: str, return_tensors: str) -> dict[str, torch.Tensor]:
        said.append(text)
        return {"pixel_values": torch.zeros(1)}

    found = GroundingDinoProposals(Network(), processor, "Dog. Cat")(picture())
    check(found, picture())
    assert said == ["dog. cat."]
    expected = torch.tensor([[0.0, 0.0, 15.0, 12.0], [12.5, 10.0, 37.5, 30.0]])
    torch.testing.assert_close(found.as_boxes(), expected)
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0]).sigmoid())


def test_a_grounding_dino_of_transformers(tmp_path: Path) -> None:
    """The library's own network (random, small) and processor, from a folder."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "dog", "cat"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    backbone = SwinConfig(
        image_size=64, window_size=2, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, out_indices=[1, 2, 3]
    )
    text = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    sizes = {
        f"{part}_{what}": value
        for part, layers in (("encoder", 1), ("decoder", 2))
        for what, value in (("layers", layers), ("attention_heads", 2), ("ffn_dim", 16), ("n_points", 2))
    }
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, num_queries=7, num_feature_levels=3, **sizes
    )
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).save_pretrained(tmp_path)
    pictures = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    GroundingDinoProcessor(pictures, tokenizer).save_pretrained(tmp_path)
    found = propose(picture(), f"grounding-dino:{tmp_path}?Dog. cat")
    check(found, picture())
    assert 0 < len(found) <= 7 and found.source == "grounding-dino"


def test_a_detector_of_ours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DetectorConfig(channels=16, fully_connected=16, post_nms=30)
    save_detector(RoVitDetector(make("rovit"), config), tmp_path)  # type: ignore[arg-type]
    found = propose(picture(), f"rovit:{tmp_path}", most=7)
    check(found, picture())
    assert len(found) == 7 and found.logits is not None


# ------------------------------------------------------------------------------------------- everything

BOXES = [Box(1, 1, 20, 20), Box(2, 2, 21, 20), Box(25, 5, 45, 35)]


def regions(scores: list[float] | None = None) -> RegionSet:
    values = None if scores is None else torch.tensor(scores)
    return RegionSet(tuple(BOXES), 40, 50, values, source="made")


def test_everything_is_named() -> None:
    spot = make("regionspot")
    found = name_everything(picture(), spot, ["red car", "tree"], regions([0.5, 0.9, 0.2]), iou=None, top=1)
    straight = spot.recognize([picture()], [best(regions([0.5, 0.9, 0.2]), 3)], ["red car", "tree"])[0]
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True) and len(found) == 3
    by_objectness = {round(f.objectness or 0, 3): f for f in found}
    for i, objectness in enumerate((0.9, 0.5, 0.2)):
        own = by_objectness[objectness]
        assert own.names == tuple(straight.topk(1)[i])
        assert own.score == pytest.approx(own.names[0][1] * objectness)  # RegionSpot's product


def test_duplicates_of_one_name_are_dropped() -> None:
    clip = make("clip-crop")
    found = name_everything(picture(), clip, ["thing"], regions())
    assert [f.region for f in found] == [BOXES[0], BOXES[2]]  # one name: all scores are 1, the first stays
    assert len(name_everything(picture(), clip, ["thing"], regions(), iou=None)) == 3
    assert all(f.objectness is None and f.score == 1.0 for f in found)
    assert name_everything(picture(), clip, ["thing"], regions(), floor=1.0) == []
    assert len(name_everything(picture(), clip, ["thing"], regions(), most=1)) == 1


def test_nothing_proposed_is_nothing_found() -> None:
    for kind in ("clip-crop", "regionspot"):
        assert name_everything(picture(), make(kind), ["a"], RegionSet((), 40, 50)) == []


def test_masks_of_everything() -> None:
    found = name_everything(picture(), make("regionspot"), ["a", "b"], regions(), masks=True, iou=None)
    assert len(found) == 3 and all(f.region.to_mask(40, 50).any() for f in found)
    with pytest.raises(InputError, match="masks: expected a regionspot"):
        name_everything(picture(), make("clip-crop"), ["a"], regions(), masks=True)


def test_names_in_place_of_objects(tmp_path: Path) -> None:
    save_recognizer(make("clip-pooled"), tmp_path / "clip")
    file = tmp_path / "found.json"
    file.write_text(json.dumps([{"image_id": 3, "bbox": [1, 1, 20, 20], "score": 0.5}]))
    (found,) = name_everything(picture(), str(tmp_path / "clip"), ["a", "b"], f"json:{file}", image_id=3)
    assert found.region == Box(1, 1, 21, 21) and found.objectness == 0.5
    with pytest.raises(InputError, match="at least one name"):
        name_everything(picture(), str(tmp_path / "clip"), [], f"json:{file}")
