"""Every annotation of a piece of COCO: our areas, boxes and pixels are pycocotools' own."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rgpt.regions import RLE, Box, Mask, Polygon

# pycocotools' own decode() under numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def annotations(shared_data):
    """[(annotation, height, width)]"""
    content = json.loads((shared_data / "coco_val2014_100/instances_val2014_100.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    return [(annotation, *sizes[annotation["image_id"]]) for annotation in content["annotations"]]


def reference(annotation, height, width):
    segmentation = annotation["segmentation"]
    encoded = coco_mask.frPyObjects(segmentation, height, width)
    return coco_mask.merge(encoded) if isinstance(segmentation, list) else encoded


def test_areas_boxes_and_pixels_equal_pycocotools(annotations):
    kinds = set()
    for annotation, height, width in annotations:
        segmentation = annotation["segmentation"]
        expected = reference(annotation, height, width)
        if isinstance(segmentation, list):
            region = Polygon.from_coco(segmentation)
        else:
            region = RLE(segmentation["size"], segmentation["counts"])
        kinds.add(type(region))
        mask = region.to_mask(height, width)
        assert np.array_equal(mask, coco_mask.decode(expected).astype(bool)), annotation["id"]
        assert mask.sum() == coco_mask.area(expected), annotation["id"]
        assert region.bounds(height, width).to_coco() == tuple(coco_mask.toBbox(expected)), annotation["id"]
        assert Mask(mask).to_rle().counts == expected["counts"].decode(), annotation["id"]
        compressed = RLE(expected["size"], expected["counts"])
        assert compressed.area == mask.sum() and np.array_equal(compressed.to_mask(height, width), mask)
    assert kinds == {Polygon, RLE} and len(annotations) == 839


def test_annotated_boxes_survive_the_way_there_and_back(annotations):
    for annotation, height, width in annotations:
        box = Box.from_coco(annotation["bbox"])
        assert np.allclose(box.to_coco(), annotation["bbox"], atol=1e-9)
        tight = Mask(box.to_mask(height, width)).bounds(height, width)
        assert np.allclose(tight.xyxy, box.xyxy, atol=1.0), annotation["id"]
