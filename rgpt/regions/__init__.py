"""Regions of a picture: values, conversions, pictures in, drawing. No torch.

Coordinates everywhere: pixels of the upright picture, x right, y down, half-open [x1, x2) x [y1, y2).
"""

from rgpt.regions.checks import MAX_PIXELS
from rgpt.regions.draw import PALETTE, color_of, draw_regions
from rgpt.regions.frame import Frame
from rgpt.regions.image import open_image
from rgpt.regions.labels import place_labels
from rgpt.regions.overlap import iou
from rgpt.regions.parse import mask_from_image, parse_region, region_from_json
from rgpt.regions.values import RLE, Box, Mask, Point, Polygon, Region, Scribble, check_work
from rgpt.regions.weights import (
    area_weights,
    box_shares,
    mask_shares,
    region_shares,
    region_weights,
    square_padding,
)

__all__ = [
    "MAX_PIXELS",
    "PALETTE",
    "RLE",
    "Box",
    "Frame",
    "Mask",
    "Point",
    "Polygon",
    "Region",
    "Scribble",
    "area_weights",
    "box_shares",
    "check_work",
    "color_of",
    "draw_regions",
    "iou",
    "mask_from_image",
    "mask_shares",
    "open_image",
    "parse_region",
    "place_labels",
    "region_from_json",
    "region_shares",
    "region_weights",
    "square_padding",
]
