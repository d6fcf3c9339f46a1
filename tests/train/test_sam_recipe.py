"""The small SAM that stands in for the pretrained one: what it learns from, and that others can open it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rgpt.errors import InputError
from rgpt.model.loading import load
from rgpt.recognizers import open_recognizer, propose
from rgpt.recognizers.loading import regionspot_from_pretrained
from rgpt.train.recognizers.config import RunConfig
from rgpt.train.recognizers.data import Batches
from rgpt.train.recognizers.drawn import Scenes
from rgpt.train.recognizers.loop import fit
from rgpt.train.recognizers.recipes import clip_source, open_recipe
from rgpt.train.recognizers.sam_recipe import PROMPTS, SamRecipe, mask_iou
from tests.recognizers.tiny_recognizers import SAM

MASKS = Scenes(regions="mask", scale=2.0, count=8)


def run(tmp_path: Path, **changes) -> RunConfig:  # type: ignore[no-untyped-def]
    values = {"model": {"config": SAM}, "data": [{"kind": "scenes"}], "steps": 3, "batch_size": 2, **changes}
    return RunConfig(recipe="sam", out=str(tmp_path / "sam"), **values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = run(tmp_path_factory.mktemp("run"))
    recipe = open_recipe(made)
    fit(recipe, Batches([MASKS], 2, 0), made)
    recipe.eval().save(Path(made.out))
    return Path(made.out)


def test_masks_overlap() -> None:
    left, all_of_it, none = (torch.zeros(2, 2, dtype=torch.bool) for _ in range(3))
    left[:, 0] = all_of_it[:] = True
    found = mask_iou(torch.stack([left, left, none]), torch.stack([all_of_it, left, none]))
    assert found.tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("clicks", [False, True], ids=["boxes", "clicks"])
def test_prompts_lie_on_what_they_mean(tmp_path: Path, clicks: bool) -> None:
    """A click is inside of its mask, a box around it, in pixels of SAM's canvas whatever the picture's."""
    recipe = open_recipe(run(tmp_path))
    assert isinstance(recipe, SamRecipe)
    for example in (MASKS[0], Scenes(regions="mask", scale=0.7, count=1)[0]):
        pixels, prompts, masks = recipe._prompts(example, clicks, torch.Generator().manual_seed(0))
        assert pixels.shape == (3, 64, 64) and masks.shape == (PROMPTS, 32, 32)
        for prompt, mask in zip(prompts, masks, strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)  # cells of two pixels
            if clicks:
                x, y = (prompt[0] / 2).long().tolist()
                assert mask[y, x] > 0
            else:
                around = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * 2.0
                assert (prompt - around).abs().max() <= 2


def test_three_steps_change_everything_that_saw_them(tmp_path: Path) -> None:
    recipe, made = open_recipe(run(tmp_path)), run(tmp_path)
    before = {name: p.detach().clone() for name, p in recipe.named_parameters()}
    fit(recipe, Batches([MASKS], 2, 0), made)
    same = {name for name, p in recipe.named_parameters() if torch.equal(p, before[name])}
    # What neither a box nor a click meets: mask prompts, clicks on background, the three ambiguous masks.
    unmet = (
        "mask_embed",
        "point_embed.0",
        "not_a_point",
        "hypernetworks_mlps",
        "shared_embedding",
        "shared_image",
    )
    assert all(any(part in name for part in unmet) for name in same)


def test_the_result_opens_as_a_sam(trained: Path) -> None:
    """As RegionSpot's frozen half, and as a source of proposals."""
    spot = regionspot_from_pretrained(str(trained), clip_source("tower:tiny"), {"feedforward": 32}, "bare")
    image = MASKS[0].image
    scores = spot.recognize([image], [MASKS[0].regions.regions], ["circle", "square"])[0]
    assert scores.probs.shape == (len(MASKS[0].regions), 2)
    assert propose(image, f"sam:{trained}").height == image.height


def test_the_tower_of_the_chat_model_is_the_one_it_sees_with(trained: Path) -> None:
    """tower:tiny gives the very tokens of RegionGPT's own vision tower; it has no space shared with texts."""
    spot = regionspot_from_pretrained(str(trained), clip_source("tower:tiny"), {"feedforward": 32})
    model, _ = load("tiny")
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected: Tensor = model.model.vision_tower.float()(pixels).last_hidden_state
    torch.testing.assert_close(spot.tower.tokens(pixels), expected)
    assert expected.shape == (1, 1 + 12 * 12, spot.tower.width)
    with pytest.raises(InputError, match="shares no space with texts"):
        spot.tower.embed(pixels)


def test_a_saved_regionspot_keeps_its_tower(trained: Path, tmp_path: Path) -> None:
    from rgpt.recognizers.loading import save_recognizer

    spot = regionspot_from_pretrained(str(trained), clip_source("tower:tiny"), {"feedforward": 32}, "bare")
    save_recognizer(spot, tmp_path / "spot")
    again = open_recognizer(f"regionspot@{tmp_path / 'spot'}")
    example = MASKS[1]
    one, other = (
        made.recognize([example.image], [example.regions.regions], ["ring", "bar"])[0].logits
        for made in (spot, again)
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {}}, "expected the key config"),
        ({"model": {"config": SAM, "speed": 1}}, "also speed"),
        ({"model": {"speed": 1}, "init": "somewhere"}, "also speed"),
    ],
)
def test_a_recipe_of_other_keys_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_recipe(run(tmp_path, **changes))
