"""`--sam`: a click becomes a mask, everything gets a region. Over tiny SAM models in the on-disk layout."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch

from app.drawing import MAX_REGIONS, read_regions
from app.main import main
from app.masks import MaskHandlers
from app.sam import SamSegmenter
from app.session import Conversation, Picture
from rgpt.errors import InputError
from tests.app.conftest import drawing
from tests.app.fake_segmenter import Halves
from tests.app.tiny_sam import SIDE, save_tiny_sam


@pytest.fixture(scope="module", params=["sam", "sam2"])
def folder(request, tmp_path_factory) -> Path:
    return save_tiny_sam(tmp_path_factory.mktemp("sam") / "tiny-sam", request.param)


@pytest.fixture(scope="module")
def segmenter(folder) -> SamSegmenter:
    loaded = SamSegmenter.load(str(folder))
    # Random weights are sure of nothing: without thresholds every point of the grid answers.
    loaded.all.settings |= {"points_per_crop": 3, "pred_iou_thresh": -9.0, "stability_score_thresh": -9.0}
    return loaded


def picture() -> Picture:
    return Picture(drawing((50, 40)))


@pytest.mark.parametrize("points", [[(31.0, 12.0)], [(5.0, 30.0), (9.5, 33.0), (12.0, 36.0)]])
def test_a_click_is_what_transformers_computes(segmenter, folder, points):
    """Our geometry and choice of a mask against those of transformers' own processors, end to end."""
    from transformers import AutoModelForMaskGeneration, Sam2Processor, SamProcessor

    shown = picture()
    mask = segmenter.mask_at(shown, points)
    model = AutoModelForMaskGeneration.from_pretrained(folder, config=segmenter.model.config).eval()
    clicks = [list(point) for point in points]
    if segmenter.square:
        processor = Sam2Processor(segmenter.image_processor)
        inputs = processor(images=shown.image, input_points=[[clicks]], return_tensors="pt")
        sizes, options = [inputs["original_sizes"]], {}
    else:
        processor = SamProcessor(segmenter.image_processor)
        inputs = processor(images=shown.image, input_points=[clicks], return_tensors="pt")
        sizes = [inputs["original_sizes"], inputs["reshaped_input_sizes"]]
        options = {"pad_size": {"height": SIDE, "width": SIDE}}
    prompts = {
        "input_points": inputs["input_points"].float(),
        "input_labels": torch.ones(1, 1, len(points), dtype=torch.long),
    }
    with torch.inference_mode():
        out = model(pixel_values=inputs["pixel_values"], multimask_output=True, **prompts)
    (masks,) = segmenter.image_processor.post_process_masks(out.pred_masks, *sizes, **options)
    expected = masks[0, int(out.iou_scores[0, 0].argmax())].numpy()
    assert 0.02 < expected.mean() < 0.98
    got = np.zeros((40, 50), dtype=bool) if mask is None else mask.to_mask(40, 50)
    assert (got != expected).mean() < 0.03


def test_a_picture_is_encoded_once_for_all_clicks(segmenter, monkeypatch):
    encoded, encode = [], segmenter.model.get_image_embeddings
    monkeypatch.setattr(
        segmenter.model, "get_image_embeddings", lambda pixels: encoded.append(1) or encode(pixels)
    )
    shown = picture()
    first = segmenter.mask_at(shown, [(10, 10)])
    assert segmenter.mask_at(shown, [(10, 10)]) == first and encoded == [1]
    for _ in range(segmenter.KEPT + 2):
        segmenter.mask_at(picture(), [(10, 10)])
    assert len(segmenter._embeddings) == segmenter.KEPT


def test_everything_is_bounded_and_inside(segmenter):
    shown = picture()
    found = segmenter.everything(shown, 4)
    assert 1 <= len(found) <= 4
    assert all(region.to_mask(40, 50).any() for region in found)


def click(talk: Conversation, *points: object) -> SimpleNamespace:
    given = [list(point) if isinstance(point, tuple) else point for point in points or [(5, 5)]]
    return SimpleNamespace(points=given, picture=talk.picture.token)


def drawn(talk: Conversation, *names: str) -> dict:
    entries = [{"id": n, "kind": "mask", "mask": name} for n, name in enumerate(names, 1)]
    return {"picture": talk.picture.token, "regions": entries}


def test_a_click_becomes_a_mask_that_can_be_asked_about():
    talk, do = Conversation(picture()), MaskHandlers(Halves())
    found = do.segment(talk, click(talk))["found"]
    assert found["add"] and found["picture"] == talk.picture.token and list(found["masks"]) == ["m1"]
    (region,) = read_regions(drawn(talk, "m1"), talk.picture).values()
    assert region.to_mask(40, 50).sum() == 40 * 25
    # The same object again has the same name, so the page does not draw it twice.
    assert list(do.segment(talk, click(talk, (6, 6)))["found"]["masks"]) == ["m1"]
    assert list(do.segment(talk, click(talk, (45, 6)))["found"]["masks"]) == ["m2"]


@pytest.mark.parametrize("point", [(51, 5), (-1, 5), (1,), (True, 1), "ab", None, (float("nan"), 1), (5, 0)])
def test_a_click_without_object_says_so_and_adds_nothing(point, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: warnings.append(message))
    talk = Conversation(picture())
    assert MaskHandlers(Halves()).segment(talk, click(talk, point))["found"]["masks"] == {}
    assert len(warnings) == 1 and talk.picture.masks == {}


@pytest.mark.parametrize("points", [None, [], "ab", {"x": 1}, [[5, 5]] * 9])
def test_points_of_another_form_are_refused(points, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: warnings.append(message))
    talk = Conversation(picture())
    event = SimpleNamespace(points=points, picture=talk.picture.token)
    assert MaskHandlers(Halves()).segment(talk, event)["found"]["masks"] == {}
    assert "could not be read" in warnings[0]


def test_a_failing_segmenter_says_so_and_does_not_cover_the_canvas(monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: warnings.append(message))
    monkeypatch.setattr(Halves, "mask_at", lambda *_: 1 / 0)
    talk, do = Conversation(picture()), MaskHandlers(Halves())
    assert do.segment(talk, click(talk))["found"]["masks"] == {}
    assert do.everything(drawn(talk), talk)["found"]["masks"] == {}
    assert ["halves failed" in text for text in warnings] == [True, True]


def test_a_click_on_an_overtaken_picture_is_nothing():
    do = MaskHandlers(Halves())
    assert do.segment(Conversation(picture()), click(Conversation(picture()))) == gr.skip()
    assert do.everything({}, Conversation()) == gr.skip()


def test_everything_leaves_room_for_fifty_regions(monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, **_: warnings.append(message))
    talk, do = Conversation(picture()), MaskHandlers(Halves())
    assert list(do.everything(drawn(talk), talk)["found"]["masks"]) == ["m1", "m2"]
    full = drawn(talk, *["m1"] * MAX_REGIONS)
    assert do.everything(full, talk)["found"]["masks"] == {} and "50 regions already" in warnings[0]
    almost = drawn(talk, *["m1"] * (MAX_REGIONS - 1))
    assert len(do.everything(almost, talk)["found"]["masks"]) == 1


def test_what_is_no_sam_is_refused_in_one_line(tmp_path, capsys):
    from transformers import CLIPConfig

    with pytest.raises(InputError, match="SamModel"):
        SamSegmenter.load(str(tmp_path / "nothing"))
    CLIPConfig().save_pretrained(tmp_path / "clip")
    assert main(["--sam", str(tmp_path / "clip"), "--port", "1"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("app: SAM") and "type clip" in error
