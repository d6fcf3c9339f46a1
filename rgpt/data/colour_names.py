"""The colour of a region in a word, where its pixels leave no doubt.

Our own rule: every pixel gets one of eleven names by hue, saturation and value (cuts chosen by eye); the
region has a colour when one name holds most of its pixels. Two colours are none.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from rgpt.regions import Box, Region

NAMES = (
    "black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown",
)  # fmt: skip
PURITY = 0.6
_BOX_PURITY = 0.7
MIN_PIXELS = 150
_HUES = (7, 28, 50, 120, 182, 212, 240)
"""Upper ends of red, orange, yellow, green, blue, purple, pink on Pillow's circle of 256; then red again."""


def names_of_pixels(rgb: np.ndarray) -> np.ndarray:
    """Indices into NAMES [N] for pixels [N, 3] (uint8); `len(NAMES)` where no name is clear."""
    hsv = np.asarray(Image.fromarray(rgb.reshape(1, -1, 3)).convert("HSV"))[0].astype(int)
    hue, saturation, value = hsv.T
    wheel = np.array([3, 4, 5, 6, 7, 8, 9, 3])
    named = wheel[np.searchsorted(_HUES, hue)]
    named = np.where((named == 4) & (value < 170), 10, named)  # dark orange is brown
    named = np.where((named == 3) & (hue > 3) & (hue < 128) & (value < 120), 10, named)
    named = np.where((named == 5) & (value < 140), 6, named)  # olive
    named = np.where((named == 3) & (saturation < 120) & (value > 180), 9, named)
    grey = (saturation < 38) | ((saturation < 60) & (value < 70))
    pale = (saturation < 95) & (named != 9) & (named != 10)  # bluish white, warm light: no vote
    named = np.where(pale | ((value < 75) & (named != 10)), len(NAMES), named)
    named = np.where(grey, np.where(value > 185, 1, 2), named)
    return np.where(value < 45, 0, named)


def colour_of(pixels: np.ndarray, region: Region, box: Box) -> str | None:
    """The region's colour, or None where no colour is clear.

    Args:
        pixels: the picture [H, W, 3] (uint8).
        region: its mask is looked at; of a box only the inner oval, the corners being background.
        box: around the region, in pixels.
    """
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (round(value) for value in box.xyxy)
    cut = pixels[y1:y2, x1:x2]
    if isinstance(region, Box):
        rows, columns = np.ogrid[-1 : 1 : cut.shape[0] * 1j, -1 : 1 : cut.shape[1] * 1j]
        inside = rows**2 + columns**2 <= 0.6**2
    else:
        inside = region.to_mask(height, width)[y1:y2, x1:x2]
    seen = cut[inside]
    if len(seen) < MIN_PIXELS:
        return None
    shares = np.bincount(names_of_pixels(seen), minlength=len(NAMES))[: len(NAMES)] / len(seen)
    best = int(shares.argmax())
    # Grey is what shadows and bad light look like: it must be clearer.
    purity = _BOX_PURITY if isinstance(region, Box) else PURITY
    needed = purity + 0.15 if NAMES[best] in ("grey", "brown") else purity
    return NAMES[best] if shares[best] >= needed else None
