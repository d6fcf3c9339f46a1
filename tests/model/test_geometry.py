"""A region's place and extent, read off its area shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rgpt.model.geometry import RegionGeometry, region_measures
from rgpt.regions import Box, Point, region_weights
from tests.model.tiny_models import make_model, make_picture, make_processor


def measures(*regions: object, height: int = 100, width: int = 100, grid: int = 50) -> np.ndarray:
    weights = [region_weights(region, height, width, grid) for region in regions]  # type: ignore[arg-type]
    return region_measures(torch.from_numpy(np.stack(weights))[None])[0].numpy()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(0, 0, 100, 100), [0.5, 0.5, 0.5, 0.5, 1.0]),
        (Box(0, 0, 50, 100), [0.25, 0.5, 0.25, 0.5, 0.5**0.5]),
        (Box(60, 20, 80, 60), [0.7, 0.4, 0.1, 0.2, 0.08**0.5]),
        (Box(10, 10, 14, 14), [0.12, 0.12, 0.02, 0.02, 0.04]),
    ],
)
def test_of_a_box_they_are_centre_half_sides_and_root_of_area(box: Box, expected: list[float]) -> None:
    assert measures(box)[0] == pytest.approx(expected, abs=0.003)


def test_a_wide_picture_is_measured_in_its_padded_square() -> None:
    # 200 x 100: 50 rows of padding above and below
    assert measures(Box(0, 0, 200, 100), height=100, width=200)[0][:2] == pytest.approx([0.5, 0.5], abs=1e-5)
    corner = measures(Box(0, 0, 100, 50), height=100, width=200)[0]
    assert corner[:2] == pytest.approx([0.25, 0.375], abs=1e-3)


def test_a_point_has_a_place_and_padding_has_none() -> None:
    assert measures(Point(30, 70))[0][:2] == pytest.approx([0.3, 0.7], abs=0.02)
    assert not region_measures(torch.zeros(1, 2, 8, 8)).any()


def test_it_is_added_to_region_vectors_and_to_nothing_else() -> None:
    model = make_model(region_geometry=True)
    plain = make_model()
    processor = make_processor(model.config)
    batch = processor(
        text=["<image> <region1>"],
        images=[make_picture(1)],
        regions=[[Box(2, 2, 20, 20)]],
        return_tensors="pt",
    )
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "region_geometry" not in k})
    with torch.no_grad():
        features = {name: batch[name] for name in ("pixel_values", "region_masks", "region_index")}
        added, without = (m.eval().get_image_features(**features) for m in (model, plain))
        expected = model.model.region_geometry(batch["region_masks"])[0]
    assert torch.equal(added.pooler_output, without.pooler_output)
    assert torch.allclose(added.region_features - without.region_features, expected, atol=1e-6)
    assert expected.abs().max() > 0


def test_near_places_differ_clearly() -> None:
    torch.manual_seed(0)
    layer = RegionGeometry(64)
    weights = [region_weights(Box(x, 40, x + 20, 60), 100, 100, 50) for x in (10, 14, 60)]
    with torch.no_grad():
        near, nearer, far = layer(torch.from_numpy(np.stack(weights))[None])[0]
    assert 0 < (near - nearer).norm() < (near - far).norm()
