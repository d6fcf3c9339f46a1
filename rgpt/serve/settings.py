"""Every limit of the server in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rgpt.errors import InputError

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """What the server accepts and how much it does at once. All defaults are ours [D].

    Raises:
        InputError: a value is not above zero.
    """

    max_running: int = 8
    """Answers computed at once; each holds the keys and values of its conversation."""
    max_waiting: int = 64
    """Requests waiting for their turn; one more is answered 429."""
    time_limit: float = 120.0
    """Seconds a request may take, waiting included."""
    body_time_limit: float = 30.0
    """Seconds in which a request's body must have arrived."""
    grace: float = 30.0
    """Seconds that answers under way get to finish after SIGTERM."""
    default_max_tokens: int = 512
    """Longest answer where the request does not say."""

    max_body_bytes: int = 32 * MIB
    max_bodies_bytes: int = 128 * MIB
    """Bodies of all requests together, until they leave; beyond it 429. The first MiB of each counts apart,
    up to 64 MiB, so that large ones do not keep small ones out."""
    max_commas: int = 400_000
    """Commas in a body: bounds how many values its JSON can hold before it is parsed."""
    max_image_bytes: int = 20 * MIB
    max_image_pixels: int = 25_000_000
    """Half the app's: at 50 megapixels a WebP takes 1.2 GB while it is decoded."""
    decode_seconds: float = 2.0
    """CPU time that opening a picture may take, and laying its regions on the grid."""
    max_regions: int = 64
    """Regions of a conversation."""
    max_regions_at_once: int = 256
    """Regions of a request to `/v1/regions`, which do not know of each other."""
    max_points: int = 20_000
    """Corners of all polygons of a request together."""
    max_rle_length: int = 1_000_000
    """Characters, or runs, of one mask's counts."""
    max_text: int = 200_000
    """Characters of all messages together."""

    kept_pictures: int = 64
    kept_picture_bytes: int = 512 * MIB
    """Encoded pictures kept for later turns: how many, and how large with their features together."""
    kept_sessions: int = 8
    """Conversations whose keys and values are kept for a next turn."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            lowest = 0 if field.name in ("max_waiting", "kept_pictures", "kept_sessions", "grace") else 1e-9
            if not value >= lowest:
                raise InputError(f"{field.name} is {value}: expected a number above zero.")
