"""The `regions` of a request → values of `rgpt.regions`, in pixels of the upright picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rgpt.errors import InputError
from rgpt.regions import RLE, Box, Point, Polygon, Region, Scribble
from rgpt.serve.conversation import Asked
from rgpt.serve.errors import ApiError, from_input_error
from rgpt.serve.protocol import RegionParam
from rgpt.serve.settings import Settings


@dataclass(frozen=True)
class Numbered:
    """The regions of a field of the request with their numbers; of one `turn` only, or None: of all."""

    params: Sequence[RegionParam]
    numbers: Sequence[int]
    field: str
    turn: int | None = None


def number_regions(params: Sequence[RegionParam], asked: Asked, settings: Settings) -> list[Numbered]:
    """The request's regions, then those that turns have of their own; what needs no picture is checked.

    Raises:
        ApiError: as `check_region_params`; too many in all, or one given twice in a turn.
    """
    picture = asked.picture_url is not None
    found = [Numbered(params, check_region_params(params, settings, picture), "regions")]
    total, own = len(params), set[tuple[int, int]]()
    for turn, field, given in asked.given:
        numbers = check_region_params(given, settings, picture, field)
        if twice := own & {(turn, number) for number in numbers}:
            raise ApiError(
                "duplicate_region",
                f"region{min(twice)[1]} is given twice in one turn: give each its own id.",
                param=field,
            )
        own |= {(turn, number) for number in numbers}
        total += len(given)
        found.append(Numbered(given, numbers, field, turn))
    if total > settings.max_regions:
        raise ApiError(
            "too_many_regions",
            f"There are {total} regions in all turns: at most {settings.max_regions} are taken.",
            param=found[-1].field,
        )
    return found


def check_region_params(
    params: Sequence[RegionParam], settings: Settings, picture: bool, field: str = "regions"
) -> list[int]:
    """The numbers of the regions of a field, after everything has been checked that needs no picture.

    Raises:
        ApiError: too many, two with one id, one on a picture that is not there, too many corners or counts.
    """
    if len(params) > settings.max_regions:
        raise ApiError(
            "too_many_regions",
            f"There are {len(params)} regions: at most {settings.max_regions} are taken.",
            param=field,
        )
    if params and not picture:
        raise ApiError("missing_image", "There are regions but no picture in the messages.", param=field)
    numbers: list[int] = []
    points = 0
    for index, param in enumerate(params):
        where = f"{field}[{index}]"
        number = index + 1 if param.id is None else int(param.id.removeprefix("region"))
        if number in numbers:
            raise ApiError(
                "duplicate_region",
                f"region{number} is given twice: give each its own id.",
                param=f"{where}.id",
            )
        numbers.append(number)
        if param.image != 0:
            raise ApiError(
                "unknown_image",
                f"A region lies on picture {param.image}, but there is one picture, number 0.",
                param=f"{where}.image",
            )
        points += check_size(param, where, settings)
        if points > settings.max_points * 2:  # a ring's points are counted by their coordinates
            raise too_many_corners(where, param, settings)
    return numbers


def check_size(param: RegionParam, where: str, settings: Settings) -> int:
    """The corners of a region. Raises ApiError for a mask whose counts are too long, or none."""
    if param.rle is not None:
        counts = param.rle.counts
        if not isinstance(counts, str | list):
            raise ApiError(
                "invalid_rle", "counts is neither a string nor a list.", param=f"{where}.{param.kind}.counts"
            )
        if len(counts) > settings.max_rle_length:
            raise ApiError(
                "invalid_rle",
                f"counts has a length of {len(counts)}: at most {settings.max_rle_length} is taken.",
                param=f"{where}.{param.kind}.counts",
            )
    lists = param.polygon or param.points or []
    return sum(len(item) if isinstance(item, list) else 1 for item in lists)


def too_many_corners(where: str, param: RegionParam, settings: Settings) -> ApiError:
    return ApiError(
        "invalid_region",
        f"The polygons have more than {settings.max_points} corners: simplify them or send masks.",
        param=f"{where}.{param.kind}",
    )


def build_regions(
    params: Sequence[RegionParam], numbers: Sequence[int], height: int, width: int, field: str = "regions"
) -> dict[int, Region]:
    """The regions by number.

    A region that is partly outside the picture is cut to it, one that is wholly outside is refused.

    Raises:
        ApiError: 400 with `regions[i].kind`, e.g. `region_out_of_bounds` at `regions[0].box`.
    """
    return {
        number: build_region(param, f"{field}[{index}].{param.kind}", height, width)
        for index, (number, param) in enumerate(zip(numbers, params, strict=True))
    }


def build_region(param: RegionParam, where: str, height: int, width: int) -> Region:
    """One region, `where` it stands in the request. Raises as `build_regions`."""
    x_scale, y_scale = (width, height) if param.normalized else (1, 1)
    try:
        region: Region
        if (mask := param.rle) is not None:
            # Before the counts are read: a mask is allocated by its size alone.
            if (mask.size[0], mask.size[1]) != (height, width):
                raise ApiError(
                    "mask_size_mismatch",
                    f"The mask's size is {mask.size} but the picture's (height, width) is "
                    f"[{height}, {width}]: make the mask on the upright picture.",
                    param=where,
                )
            region = RLE(mask.size, mask.counts)
        elif param.box is not None:
            x1, y1, x2, y2 = param.box
            region = Box(x1 * x_scale, y1 * y_scale, x2 * x_scale, y2 * y_scale)
        elif param.point is not None:
            region = Point(param.point[0] * x_scale, param.point[1] * y_scale)
        elif param.points is not None:
            clicks = [Point(x * x_scale, y * y_scale) for x, y in param.points]
            width_of_all = 2 * clicks[0].radius_in(height, width)
            region = Scribble([[(click.x, click.y)] for click in clicks], width_of_all)
        else:
            region = Polygon(param.polygon)
            if param.normalized:
                region = Polygon([[(x * x_scale, y * y_scale) for x, y in ring] for ring in region.rings])
    except (InputError, OverflowError) as error:
        problem = error if isinstance(error, InputError) else InputError(f"a number is too large ({error})")
        raise from_input_error(
            problem, "invalid_rle" if param.rle is not None else "invalid_region", where
        ) from None
    try:
        region.check_inside(height, width)
    except InputError as error:
        raise from_input_error(error, "region_out_of_bounds", where) from None
    return region
