"""IoU of boxes and of anything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Mask, Point, Polygon, iou

boxes = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(1, 20),
    st.integers(1, 20),
)


@given(boxes, boxes)
def test_laws_and_two_ways_that_agree(a, b):
    value = iou(a, b)
    assert 0 <= value <= 1 and value == iou(b, a) and iou(a, a) == 1
    assert value == pytest.approx(iou(Mask(a.to_mask(40, 40)), b))
    assert value == pytest.approx(coco_mask.iou(np.array([a.to_coco()]), np.array([b.to_coco()]), [0])[0, 0])


@pytest.mark.parametrize(
    "a, b, expected",
    [
        (Box(0, 0, 2, 2), Box(1, 0, 3, 2), 1 / 3),
        (Box(0, 0, 2, 2), Box(2, 0, 4, 2), 0),
        (Box(0, 0, 4, 4), Box(1, 1, 3, 3), 1 / 4),
        (RLE((1, 4), [0, 2, 2]), RLE((1, 4), [1, 2, 1]), 1 / 3),
        (RLE((1, 4), [0, 2, 2]), Box(0, 0, 4, 1), 1 / 2),
    ],
)
def test_known_values(a, b, expected):
    assert iou(a, b) == pytest.approx(expected)


def test_the_size_of_the_picture_is_asked_for_where_it_is_needed():
    polygon, point = Polygon([(0, 0), (9, 0), (9, 9), (0, 9)]), Point(4, 4, 2)
    with pytest.raises(InputError, match=r"IoU of a Polygon and a Point.*pass height and width"):
        iou(polygon, point)
    assert 0 < iou(polygon, point, height=10, width=10) < 1
    with pytest.raises(InputError, match="mask"):
        iou(Mask(np.ones((4, 4), bool)), Mask(np.ones((5, 5), bool)))
