"""Who answers: what the app needs of a session and its model, and the one that it has.

The model is loaded once and shared by all visitors. Every conversation has a session of its own; their steps
run one at a time under one lock, so that answers of several visitors interleave token by token and never meet
inside the model.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from app.session import Conversation, Picture
from rgpt.prompts import mention
from rgpt.regions import Region, check_work, region_weights
from rgpt.regions.square import SquarePicture

if TYPE_CHECKING:
    from rgpt.model.about import About


class Session(Protocol):
    """What the app needs of `rgpt.chat.ChatSession`; turns need `question`, `answer` and `regions`."""

    turns: list[Any]
    regions: dict[int, Region]
    laid: Mapping[Region, Any]
    about: About

    def check(self, question: str) -> None: ...

    def stream(self, question: str) -> Iterator[str]: ...

    def another(self) -> Session: ...

    def ask_many(
        self, question: str, regions: Sequence[int], *, as_number: int | None = None
    ) -> dict[int, str]: ...

    def name_shares(
        self, questions: Sequence[str], regions: Sequence[Mapping[int, Region]] | None = None
    ) -> list[dict[str, float]]: ...


class Engine(Protocol):
    """A named answering engine. `notes` says in a sentence or two what it can and cannot do."""

    name: str
    notes: str
    grid: int | None
    """Cells along a side of the grid that regions are laid on; None: the session does that."""

    def open(self, image: Image.Image) -> Session:
        """A session about this picture, which is encoded here and never again."""
        ...


NOTES = {
    "drawn scenes": "Knows drawn scenes only: shapes, colours, textures, sizes, counts and positions. "
    "It has never seen a photograph; what it says about one means nothing.",
    "photographs": "Knows photographs of everyday things. It can be wrong, above all about small or hidden "
    "things; it reads no text and knows nobody by name.",
    "": "Answers about regions and whole pictures. It can be wrong, above all about small or hidden things.",
}
"""Of a model, by what it has seen."""


class ModelEngine:
    """A RegionGPT model with its processor."""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model = model
        self.processor = processor
        self.name = name
        self.grid: int | None = processor.refined_grid
        from rgpt.model.about import About

        self.about: About = getattr(model, "about", None) or About()
        self.notes = NOTES[self.about.pictures]

    @classmethod
    def load(cls, name_or_path: str, **where: Any) -> ModelEngine:
        """Load an embedded model, a folder or a hub id (`where`: see `rgpt.placement`); InputError when there
        is no such model, or it cannot be opened so."""
        from rgpt.model import load

        model, processor = load(name_or_path, **where)
        return cls(model, processor, name_or_path.rstrip("/").rsplit("/", 1)[-1])

    def open(self, image: Image.Image) -> Session:
        from rgpt.chat import ChatSession

        session = ChatSession(self.model, self.processor)
        # Not the picture itself, which the visitor's conversation holds: a session is kept for longer.
        session.set_image(SquarePicture(self.processor.pixels(image).numpy(), image.height, image.width))
        return session


class Answering:
    """Answers to conversations, one model step at a time.

    A conversation's session is kept for its next question, which then computes its own words only; the least
    recently used ones make room.
    """

    KEPT = 8
    """Sessions kept: each holds the keys and values of its conversation, for a 7B model some 0.4 GB."""

    TOGETHER = 8
    """Regions answered in one batch of a table: after each, the page shows them and Stop is heard."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._step = threading.Lock()
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._weights = lru_cache(256)(region_weights)

    def check(self, conversation: Conversation) -> None:
        """InputError when the model cannot take the last turn's question, such as one beyond its context."""
        laid = self._lay(conversation)
        with self._step:
            self._session(conversation, laid).check(conversation.turns[-1].question)

    def stream(self, conversation: Conversation) -> Generator[str]:
        """The answer to the last turn in pieces; closing the generator stops the computation."""
        laid = self._lay(conversation)
        with self._step:
            pieces = self._session(conversation, laid).stream(conversation.turns[-1].question)
        try:
            while True:
                with self._step:
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece
        finally:
            if isinstance(pieces, Generator):
                with self._step:
                    pieces.close()

    def note(self, conversation: Conversation) -> str:
        """What belongs below the answer of the last turn, in lines; "" for nothing.

        Of a name the likeliest ones with their shares; of what may be a photograph, that the model has seen
        none.
        """
        from rgpt.chat.remarks import ONLY_DRAWN, tell_shares

        assert conversation.picture is not None
        turn = conversation.turns[-1]
        with self._step:
            session = self._session(conversation)
            shares = session.name_shares([turn.question])[0]
        unseen = session.about.only_drawn and not conversation.picture.is_scene
        return "\n".join(filter(None, [tell_shares(turn.answer, shares), ONLY_DRAWN * unseen]))

    def ask_each(
        self, picture: Picture, question: str, regions: Mapping[int, Region]
    ) -> Generator[dict[int, tuple[str, str]]]:
        """The same question about every region, alone on the picture and without the conversation.

        Yields the answers of `TOGETHER` regions at a time, which are computed in one batch, each with what
        stands beside it: of a name the likeliest ones with their shares, else "". `<region>` in the
        question stands for each; closing the generator stops after the batch under way.
        """
        from rgpt.chat.remarks import tell_shares

        with self._step:
            session = self._open(picture).another()
            session.regions = dict(regions)
        numbers = sorted(regions)
        for start in range(0, len(numbers), self.TOGETHER):
            some = numbers[start : start + self.TOGETHER]
            with self._step:
                # As <region1>, whatever its number: few models have seen <region37>.
                answers = session.ask_many(question, some, as_number=1)
                alone = question.replace("<region>", mention(1))
                shares = session.name_shares([alone] * len(some), [{1: regions[n]} for n in some])
            yield {
                n: (answers[n].replace(mention(1), mention(n)), tell_shares(answers[n], own))
                for n, own in zip(some, shares, strict=True)
            }

    def forget(self, token: str) -> None:
        """Let go of what is kept for a picture."""
        with self._step:
            self._sessions.pop(token, None)

    def _lay(self, conversation: Conversation) -> dict[Region, Any]:
        """Cell weights of the regions that the conversation is about, made while others' answers go on;
        InputError when they are too much work."""
        picture = conversation.picture
        if picture is None or self.engine.grid is None:
            return {}
        turns = (*conversation.history(), *conversation.turns[-1:])
        regions = {region for turn in turns for region in turn.with_mentioned_regions().regions.values()}
        check_work(regions, picture.height, picture.width)
        return {r: self._weights(r, picture.height, picture.width, self.engine.grid) for r in regions}

    def _session(self, conversation: Conversation, laid: Mapping[Region, Any] | None = None) -> Session:
        """The session of the picture, set to the earlier turns and to the regions of the last."""
        assert conversation.picture is not None and conversation.turns, "nothing has been asked"
        session = self._open(conversation.picture)
        # Only what is mentioned: every region of a turn costs a mask.
        session.turns = [turn.with_mentioned_regions() for turn in conversation.history()]
        session.regions = dict(conversation.turns[-1].with_mentioned_regions().regions)
        session.laid = laid or {}
        return session

    def _open(self, picture: Picture) -> Session:
        """The session of a picture, kept from before or opened."""
        session = self._sessions.pop(picture.token, None) or self.engine.open(picture.image)
        self._sessions[picture.token] = session
        while len(self._sessions) > self.KEPT:
            self._sessions.popitem(last=False)
        return session
