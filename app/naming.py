"""What "Find all" finds without a SAM: objects on photographs, or regions that a recognizer of
`rgpt.recognizers` names from a list of names that the visitor may change.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from app.session import Label, Picture, is_text
from rgpt.errors import InputError
from rgpt.regions import Mask, Region

if TYPE_CHECKING:
    from rgpt.recognizers import RegionRecognizer, RegionSet
    from rgpt.recognizers.proposals import ProposalSource

MOST_NAMES = 2000
"""Names that a visitor may choose among; every one is a forward pass of a text tower, or 81 of them."""
LONGEST_NAME = 100
APART, WITHIN = 0.5, 0.8
"""IoU from which two boxes are taken for one object, and the share of the smaller from which it is a part."""


class Namer(Protocol):
    """What the app needs to find and name regions.

    `name`: whose names they are, as visitors read it. `names`: those to begin with.
    """

    name: str
    names: Sequence[str]

    def everything(self, picture: Picture, names: Sequence[str]) -> list[tuple[Region, Label]]:
        """What is on the picture, and which of the names it has; best first."""
        ...


class ObjectFinder:
    """Boxes of objects on a photograph, from the proposals that ship; opened when first asked for."""

    name = "“Find all”"
    SURE = 0.45
    """The least score that is shown: some six boxes a photograph (docs/decisions.md)."""

    def everything(self, picture: Picture, most: int) -> list[Region]:
        """At most so many objects, best first, none of them mostly another one or within a better one."""
        from torchvision.ops import nms

        from rgpt.recognizers import propose

        found = propose(picture.image, "photo")
        assert found.scores is not None
        boxes: list[list[float]] = found.as_boxes().tolist()
        chosen: list[int] = []
        for i in nms(found.as_boxes(), found.scores, APART).tolist():
            if found.scores[i] >= self.SURE and not any(_within(boxes[i], boxes[j]) for j in chosen):
                chosen.append(i)
        return [found.regions[i] for i in chosen[:most]]


def _within(box: list[float], other: list[float]) -> bool:
    """Whether most of the smaller of two xyxy boxes lies in the larger."""
    across, down = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    smaller = min((one[2] - one[0]) * (one[3] - one[1]) for one in (box, other))
    return across > 0 and down > 0 and across * down > WITHIN * smaller


class RegionNamer:
    """`rgpt.recognizers.name_everything` over a recognizer and a proposal source.

    What the source found on the last pictures is kept: another list of names asks the recognizer only.
    """

    KEPT = 8
    LOOKED_AT = 100
    """Proposals that are named; the page then shows the best of them."""

    def __init__(
        self, recognizer: RegionRecognizer, source: ProposalSource, names: Sequence[str], name: str
    ) -> None:
        self.recognizer, self.source, self.names, self.name = recognizer, source, tuple(names), name
        self._found: OrderedDict[str, RegionSet] = OrderedDict()

    def everything(self, picture: Picture, names: Sequence[str]) -> list[tuple[Region, Label]]:
        from rgpt.recognizers import name_everything

        found = name_everything(picture.image, self.recognizer, names, self._proposals(picture), top=1)
        return [(one.region, Label(one.names[0][0], one.score)) for one in found]

    def _proposals(self, picture: Picture) -> RegionSet:
        from rgpt.recognizers import RegionSet, propose

        found = self._found.pop(picture.token, None)
        if found is None:
            found = propose(picture.image, self.source, most=self.LOOKED_AT)
            # As runs: a hundred masks of a photograph would be a gigabyte.
            regions = [r.to_rle() if isinstance(r, Mask) else r for r in found.regions]
            found = RegionSet(
                tuple(regions), found.height, found.width, found.scores, found.logits, found.source
            )
        self._found[picture.token] = found
        while len(self._found) > self.KEPT:
            self._found.popitem(last=False)
        return found


def names_text(names: Sequence[str]) -> str:
    """Names as the page's text box holds them. A comma in a name becomes a space, which is also what
    recognizers read in its place.
    """
    return ", ".join(" ".join(name.replace(",", " ").split()) for name in names)


def read_names(text: object, most: int = MOST_NAMES) -> list[str]:
    """The names in the page's text box: between commas or line ends, each once. Never a file's name: the text
    comes from a visitor.

    Raises:
        InputError: there is none, one is very long, or there are very many.
    """
    if not isinstance(text, str) or not is_text(text):
        raise InputError("The list of names could not be read; type it again.")
    words = (" ".join(word.split()) for line in text.splitlines() for word in line.split(","))
    names = list(dict.fromkeys(filter(None, words)))
    if not names:
        raise InputError(
            "There are no names to choose among; type some, for example: dog, cat, traffic light."
        )
    if len(names) > most:
        raise InputError(f"There are {len(names)} names, more than the {most} allowed; remove some.")
    longest = max(names, key=len)
    if len(longest) > LONGEST_NAME:
        raise InputError(
            f"The name “{longest[:20]}…” has {len(longest)} characters, more than the {LONGEST_NAME} "
            "allowed; put commas between names."
        )
    return names
