"""One picture, its regions, and questions about them one after another.

A picture is encoded once, and a region laid on the model's grid once; keys and values of earlier turns are
kept, so that a follow-up question computes its own tokens only.

Sessions are independent: many may share one model, from several threads. One session is used by one thread
at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, Self

import numpy as np
import torch

from rgpt.chat.branches import Growing, decode
from rgpt.chat.keys import Keys
from rgpt.chat.picking import ClosedSet, Picker, Rule, token_trie
from rgpt.chat.pieces import Usage, Words
from rgpt.errors import ContextLengthError, InputError
from rgpt.model.conversation import Conversation
from rgpt.prompts import mention, mentioned
from rgpt.regions import Region, open_image
from rgpt.regions.square import SquarePicture

KNOWN = 256
"""Regions of a picture that are not laid on the model's grid again; each takes some 40 KB and itself."""
ANSWERS = 2048
"""Answers that are not tokenised again: lists of names are asked about for every region."""


@dataclass(frozen=True)
class Turn:
    """A question, what was answered (perhaps in part), and the regions as they were when it was asked."""

    question: str
    answer: str
    regions: Mapping[int, Region] = field(default_factory=dict)
    usage: Usage | None = None


class Session:
    """A conversation about one picture: the half of `ChatSession` that asks one question after another.

    Args:
        model: a `RegionGPTForConditionalGeneration` in eval mode.
        processor: the `RegionGPTProcessor` saved with it.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.turns: list[Turn] = []
        self.regions: dict[int, Region] = {}
        self._image: Any = None
        self._keys = Keys(model, processor)
        self.laid: Mapping[Region, np.ndarray] = {}
        """Regions that were laid on the model's grid elsewhere, float32 `[G, G]` each."""
        self._known_weights = lru_cache(KNOWN)(processor.weigh)
        self._form = processor.answer_form()
        self._words = lru_cache(ANSWERS)(partial(processor.answer_ids, form=self._form))
        self._ends = self._form.stops_of(model)
        self._never = [processor.image_token_id, processor.region_token_id]
        self._no_repeat: int = getattr(model.generation_config, "no_repeat_ngram_size", None) or 0

    # ------------------------------------------------------------------------------------- picture

    @property
    def image(self) -> Any:
        """The upright RGB picture, what was given for it (`SquarePicture`), or None."""
        return self._image

    def set_image(self, image: Any) -> None:
        """Take a picture (path, bytes or PIL image); regions and turns start anew.

        Args:
            image: of a `SquarePicture`, as the model sees it, only the size is kept.

        Raises:
            InputError: when it cannot be opened; the session then keeps what it had.
        """
        if isinstance(image, SquarePicture):
            opened: Any = replace(image, pixels=np.empty(0))
            pixels = torch.from_numpy(image.pixels)[None]
        else:
            opened = open_image(image)
            pixels = self.processor.pixels(opened)[None]
        with torch.inference_mode():
            refined = self.model.model.encode(pixels.to(self.model.device))
        self._image, self._keys.refined = opened, refined
        self.regions = {}
        self.reset()

    def add_region(self, region: Region, number: int | None = None) -> int:
        """Add a region and return its number: one that was not used in this conversation unless given.

        A number may be given again: from then on it means this region, but in the turns before what it meant
        there.

        Raises:
            InputError: without a picture, for a region outside of it, or for a number below 1.
        """
        if self._image is None:
            raise InputError("There is no picture to draw a region on: set one first.")
        if number is None:
            # Not one of an earlier turn: whoever reads the chat would take the new region for the old one.
            number = max([0, *self.regions, *(n for turn in self.turns for n in turn.regions)]) + 1
        elif number < 1:
            raise InputError(f"Region number {number} is below 1: regions are numbered from 1.")
        region.check_inside(self._image.height, self._image.width)
        self.regions[number] = region
        return number

    def _known(self) -> str:
        if not self.regions:
            return "no region is given"
        names = ", ".join(mention(n) for n in sorted(self.regions))
        return f"{len(self.regions)} given: {names}" if len(self.regions) > 1 else f"1 given: {names}"

    def another(self) -> Self:
        """A new session about the same picture, which is not encoded again; without regions and turns."""
        session = type(self)(self.model, self.processor)
        session._image, session._keys.refined = self._image, self._keys.refined
        session._known_weights, session._words = self._known_weights, self._words
        return session

    def _weigh(self, region: Region, size: tuple[int, int]) -> torch.Tensor:
        weights = self.laid.get(region)
        return self._known_weights(region, size) if weights is None else torch.from_numpy(weights)

    # ------------------------------------------------------------------------------------------- conversation

    def reset(self) -> None:
        """Forget the turns; picture and regions stay."""
        self.turns = []
        self._keys.clear()

    def undo(self) -> Turn:
        """Take the last turn back and return it."""
        if not self.turns:
            raise InputError("There is no turn to undo: nothing was asked yet.")
        return self.turns.pop()

    def check(self, question: str) -> None:
        """Refuse a question that cannot be asked, before anything is computed.

        Raises:
            InputError: for an empty question, an unknown region, or a conversation longer than the context.
        """
        self._encode([question])

    def stream(
        self,
        question: str,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        choices: Sequence[str] | None = None,
    ) -> Generator[str, None, None]:
        """Ask, and yield the answer piece by piece. Closing the generator stops the computation.

        The turn is recorded when the answer ends or is stopped, with what was said until then.

        Args:
            temperature: 0 takes the likeliest token; above it, tokens are drawn, with `seed` if given.
            choices: only these answers can come out (a closed set); decoding follows a trie of their tokens.
                One that is longer than `max_new_tokens` is cut short.

        Raises:
            InputError: as `check`, when the first piece is asked for.
        """
        self._check_limits(max_new_tokens, choices)
        (prompt,) = self._encode([question])
        regions = dict(self.regions)
        rule = self._closed_set(choices)
        pick = Picker(temperature, top_p, seed, self._never, self._no_repeat, rule and rule())
        answer = Growing(prompt, pick, self._room(prompt, max_new_tokens))
        words = Words(self.processor.tokenizer)
        ended = "length"
        try:
            with closing(decode(self._keys, [answer], self._ends, 1)) as passes:
                for ((_, token),) in passes:
                    if token in self._ends:
                        ended = "stop"
                    elif piece := words.add(token):
                        yield piece
        except GeneratorExit:
            ended = "closed"  # in the middle of an answer: nothing runs on, and what was said is kept below
        # A failure passes by here: a turn that was not answered must not enter later prompts.
        usage = Usage(len(prompt.ids), answer.cached, len(words.ids), ended)
        self.turns.append(Turn(question, words.said.strip(), regions, usage))

    def ask(self, question: str, **options: Any) -> str:
        """The whole answer at once; options as in `stream`."""
        for _ in self.stream(question, **options):
            pass
        return self.turns[-1].answer

    # -------------------------------------------------------------------------------------------- the machine

    def _encode(
        self,
        questions: Sequence[str],
        regions: Sequence[Mapping[int, Region]] | None = None,
        rooms: Sequence[int] | None = None,
    ) -> list[Conversation]:
        """The conversation with each of the questions, as the model reads it.

        Numbers belong to turns: what `<region1>` meant when a turn was asked, it means there for good,
        whatever it means now. Questions that read the same are tokenised once.

        Args:
            rooms: of each question, the tokens that must find room behind it; default: one.

        Raises:
            InputError: an empty question, half a character, a mention of no region, or a conversation longer
                than the context.
        """
        if regions is not None and len(regions) != len(questions):
            raise InputError(
                f"regions holds {len(regions)} entries for {len(questions)} questions: give one each."
            )
        limit, image = self.processor.max_length, self._image
        size = None if image is None else (image.height, image.width)
        history: list[dict[str, Any]] = []
        for turn in self.turns:
            history.append(self._message(turn.question, turn.regions))
            history.append({"role": "assistant", "content": turn.answer})
        firsts: dict[str, Conversation] = {}
        prompts = []
        for number, question in enumerate(questions):
            meanings = self.regions if regions is None else {**self.regions, **regions[number]}
            if not question.strip():
                raise InputError("The question is empty: type one.")
            if any("\ud800" <= character <= "\udfff" for character in question):
                raise InputError("The question is not valid text (it holds half a character): type it again.")
            if missing := sorted(set(mentioned(question)) - set(meanings)):
                names = ", ".join(map(mention, missing))
                raise InputError(f"The question mentions {names} but {self._known()}.")
            if question in firsts and size is not None:
                weights = [self._weigh(meanings[n], size) for n in mentioned(question)]
                prompt = firsts[question].about(weights)
            else:
                messages = [*history, self._message(question, meanings)]
                if size is not None:
                    picture = {"type": "image", "image": size}
                    messages[0] = {**messages[0], "content": [picture, *messages[0]["content"]]}
                prompt = self.processor.tokenize_chat(messages, add_generation_prompt=True, weigh=self._weigh)
            firsts.setdefault(question, prompt)
            if limit is not None and len(prompt) + (1 if rooms is None else rooms[number]) > limit:
                raise ContextLengthError(
                    f"The conversation has {len(prompt)} tokens but the context holds {limit}: no room for "
                    "an answer; shorten the question or start a new conversation."
                )
            prompts.append(prompt)
        return prompts

    @staticmethod
    def _message(question: str, meanings: Mapping[int, Region]) -> dict[str, Any]:
        """A question as a message: its text, and what the numbers in it mean."""
        if missing := [n for n in mentioned(question) if n not in meanings]:
            raise InputError(f"A turn mentions {mention(missing[0])} but has no such region: give it one.")
        return {"role": "user", "content": [{"type": "text", "text": question}], "regions": meanings}

    def _check_limits(self, max_new_tokens: int, choices: Sequence[str] | None) -> None:
        if choices is not None and not choices:
            raise InputError("choices is empty: give at least one answer that may come out.")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}: expected at least 1.")

    def _room(self, prompt: Conversation, max_new_tokens: int) -> int:
        """How many tokens an answer may have."""
        limit = self.processor.max_length
        return max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt.ids))

    def _closed_set(self, choices: Sequence[str] | None) -> Callable[[], Rule] | None:
        """Makes the rule, anew for every answer, that it is one of `choices`."""
        if choices is None:
            return None
        trie = token_trie(map(self._words, choices), self._ends)
        return lambda: ClosedSet(trie)

    def _tail(self, answer: str) -> list[int]:
        """An answer's tokens as the template writes them, its end included."""
        return [*self._words(answer), *self._form.end]
