"""Regions of a picture: values, conversions, pictures in, drawing. No torch."""

from rgpt.regions.checks import MAX_PIXELS
from rgpt.regions.image import open_image
from rgpt.regions.values import RLE, Box, Mask, Point, Polygon, Region, Scribble
from rgpt.regions.weights import area_weights, square_padding

__all__ = [
    "MAX_PIXELS",
    "RLE",
    "Box",
    "Mask",
    "Point",
    "Polygon",
    "Region",
    "Scribble",
    "area_weights",
    "open_image",
    "square_padding",
]
