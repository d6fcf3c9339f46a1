"""`ChatSession`: one picture, its regions, a conversation about them. The only loop that talks to the model.

The app, the server, the terminal and the evaluation all ask through this class. A picture is encoded once;
keys and values of earlier turns are kept, so that a follow-up question computes its own tokens only.

Sessions are independent: many may share one model, from several threads. One session is used by one thread
at a time.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rgpt.chat.branches import answer_each, log_likelihoods
from rgpt.chat.encoding import Prompt, encode
from rgpt.chat.keys import Keys
from rgpt.chat.picking import Picker, Trie, token_trie
from rgpt.errors import InputError
from rgpt.model.about import About
from rgpt.prompts import asks_for_name, guided, mention, mentioned
from rgpt.regions import Region, open_image

SHARES_WITHIN = 12.0
"""Nats: a name that is less likely than the likeliest by more than this has a share below 1e-5."""


@dataclass(frozen=True)
class Usage:
    """What an answer took, in tokens.

    `ended`: `stop` by itself, `length` cut off, `closed` stopped from outside.
    """

    prompt_tokens: int
    cached_tokens: int
    """Those of the prompt whose keys and values were there already."""
    answer_tokens: int
    ended: str


@dataclass(frozen=True)
class Turn:
    """A question, what was answered (perhaps in part), and the regions as they were when it was asked."""

    question: str
    answer: str
    regions: Mapping[int, Region] = field(default_factory=dict)
    usage: Usage | None = None


class ChatSession:
    """A conversation about one picture.

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
        ends = model.generation_config.eos_token_id
        ends = processor.tokenizer.eos_token_id if ends is None else ends
        self._ends = set(ends) if isinstance(ends, (list, tuple)) else {ends}
        self._never = [processor.image_token_id, processor.region_token_id]
        self._no_repeat: int = getattr(model.generation_config, "no_repeat_ngram_size", None) or 0

    @classmethod
    def from_pretrained(cls, name_or_path: str | None = None, **options: Any) -> ChatSession:
        """A session over a freshly loaded model: `photo`, `tiny`, a folder, or a hub id; by default what
        `rgpt.model.default.default_model` chooses. Options go to `rgpt.model.load`."""
        from rgpt.model import load
        from rgpt.model.default import default_model

        return cls(*load(name_or_path or default_model(), **options))

    @property
    def about(self) -> About:
        """What the model has seen."""
        return getattr(self.model, "about", None) or About()

    # ------------------------------------------------------------------------------------- picture

    @property
    def image(self) -> Any:
        """The upright RGB picture, or None."""
        return self._image

    def set_image(self, image: Any) -> None:
        """Take a picture (path, bytes or PIL image); regions and turns start anew.

        Raises:
            InputError: when it cannot be opened; the session then keeps what it had.
        """
        opened = open_image(image)
        pixels = self.processor.pixel_values([opened])
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

    def remove_region(self, number: int) -> None:
        """Take a region away; earlier turns that mention it keep it."""
        if number not in self.regions:
            raise InputError(f"There is no {mention(number)} to remove: {self._known()}.")
        del self.regions[number]

    def _known(self) -> str:
        if not self.regions:
            return "no region is given"
        names = ", ".join(mention(n) for n in sorted(self.regions))
        return f"{len(self.regions)} given: {names}" if len(self.regions) > 1 else f"1 given: {names}"

    def another(self) -> ChatSession:
        """A new session about the same picture, which is not encoded again; without regions and turns."""
        session = type(self)(self.model, self.processor)
        session._image, session._keys.refined = self._image, self._keys.refined
        return session

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
        prompt = self._encode([question])[0]
        regions = dict(self.regions)
        room = self._room(prompt, max_new_tokens)
        pick = Picker(temperature, top_p, seed, self._never, self._no_repeat)
        trie = None if choices is None else self._trie(choices)
        answer_ids: list[int] = []
        said = ""
        ended = "length"
        try:
            logits = self._keys.prefill(prompt)
            for step in range(room):
                token = pick(logits, trie)
                if token in self._ends:
                    ended = "stop"
                    break
                answer_ids.append(token)
                trie = None if trie is None else trie[token]
                text = self.processor.tokenizer.decode(answer_ids, skip_special_tokens=True)
                # A character of several bytes may still be incomplete: hold it back until it is whole.
                if not text.endswith("\ufffd") and len(text) > len(said):
                    piece, said = text[len(said) :], text
                    yield piece
                if step + 1 < room:
                    logits = self._keys.step(token)
        except GeneratorExit:
            ended = "closed"  # in the middle of an answer: nothing runs on, and what was said is kept below
        # A failure passes by here: a turn that was not answered must not enter later prompts.
        usage = Usage(len(prompt.ids), self._keys.reused, len(answer_ids), ended)
        self.turns.append(Turn(question, said.strip(), regions, usage))

    def ask(self, question: str, **options: Any) -> str:
        """The whole answer at once; options as in `stream`."""
        for _ in self.stream(question, **options):
            pass
        return self.turns[-1].answer

    # ----------------------------------------------------------------------------------- many at once

    def ask_many(
        self,
        question: str,
        regions: Sequence[int] | None = None,
        *,
        as_number: int | None = None,
        **options: Any,
    ) -> dict[int, str]:
        """The same question about many regions: picture and conversation are read once, answers come in one
        batch.

        Each answer is what `ask` would give in this conversation; the conversation itself is not changed.

        Args:
            question: `<region>` stands for each region in turn; where there is none, `<region1>` does.
            regions: numbers; default: all.
            as_number: write every region under this number, as if it were the only one drawn. (By its own
                number, region 64 is `<region64>`, which few models have seen.)
            options: as in `ask_each`.

        Returns:
            The answer of each number.

        Raises:
            InputError: for an unknown number or a question that mentions no region.
        """
        numbers = list(self.regions) if regions is None else list(dict.fromkeys(regions))
        if missing := sorted(set(numbers) - set(self.regions)):
            raise InputError(f"There is no {', '.join(map(mention, missing))}: {self._known()}.")
        if not numbers:
            raise InputError("There is no region to ask about: add regions first.")
        placeholder = "<region>" if "<region>" in question else "<region1>"
        if placeholder not in question:
            raise InputError("The question mentions no region: write <region> where each region belongs.")
        questions = [question.replace(placeholder, mention(as_number or number)) for number in numbers]
        instead = None if as_number is None else [{as_number: self.regions[number]} for number in numbers]
        return dict(zip(numbers, self.ask_each(questions, instead, **options), strict=True))

    def ask_each(
        self,
        questions: Sequence[str],
        regions: Sequence[Mapping[int, Region]] | None = None,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        choices: Sequence[str] | None = None,
        batch_size: int = 32,
    ) -> list[str]:
        """Many questions that do not know of each other, each asked in the conversation so far, in one batch.

        Each answer is what `ask` would give; the conversation itself is not changed.

        Args:
            regions: for each question, regions that it has instead of or besides the session's.
            batch_size: so many answers grow together. More is faster until the keys of all answers, which
                stand in one row, outgrow the processor's cache.
            others: as in `stream`.

        Raises:
            InputError: as `stream`, before anything is computed.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: expected at least 1.")
        if not questions:
            return []
        self._check_limits(max_new_tokens, choices)
        pickers = [Picker(temperature, top_p, seed, self._never, self._no_repeat) for _ in questions]
        prompts = self._encode(questions, regions)
        limits = [self._room(prompt, max_new_tokens) for prompt in prompts]
        trie = None if choices is None else self._trie(choices)
        answers = answer_each(self._keys, prompts, pickers, limits, self._ends, trie, batch_size)
        return [self._text(ids) for ids in answers]

    def rank(self, question: str, names: Sequence[str]) -> dict[str, float]:
        """Of every name log p(name | conversation so far, question) / tokens, its end token included.

        One pass over the shared prompt; names that begin alike are read together; the conversation is not
        changed. A softmax of the values gives confidences. Raises InputError as `check`, or without names.
        """
        return self.rank_each([question], names)[0]

    def rank_each(
        self,
        questions: Sequence[str],
        names: Sequence[str],
        regions: Sequence[Mapping[int, Region]] | None = None,
    ) -> list[dict[str, float]]:
        """`rank` for many questions that do not know of each other; `regions` as in `ask_each`."""
        names = list(dict.fromkeys(names))
        if not names or not all(name.strip() for name in names):
            raise InputError("names is empty or holds an empty name: give the names to rank.")
        if not questions:
            return []
        tails = [self._tail(name) for name in names]
        prompts = self._encode(questions, regions)
        sums = log_likelihoods(self._keys, prompts, [tails] * len(prompts))
        return [
            {name: total / len(tail) for name, total, tail in zip(names, row, tails, strict=True)}
            for row in sums
        ]

    def score(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """log p(answer | conversation so far, question) of each pair: the sum over the answer's tokens, end
        included.

        One batched pass; the conversation itself is not changed.
        """
        if len(questions) != len(answers):
            raise InputError(
                f"score got {len(questions)} questions but {len(answers)} answers: give one answer each."
            )
        if not questions:
            return []
        unlike = list(dict.fromkeys(questions))
        tails = [
            [self._tail(a) for q, a in zip(questions, answers, strict=True) if q == one] for one in unlike
        ]
        sums = log_likelihoods(self._keys, self._encode(unlike), tails)
        queues = {one: iter(row) for one, row in zip(unlike, sums, strict=True)}
        return [next(queues[question]) for question in questions]

    def likelihoods(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        regions: Sequence[Mapping[int, Region]] | None = None,
        *,
        within: float | None = None,
    ) -> list[dict[str, float]]:
        """log p(answer | conversation so far, question) of each question's own answers, whole, end included.

        Questions do not know of each other; the conversation is not changed. A softmax of a row gives shares.

        Args:
            regions: as in `ask_each`.
            within: answers that cannot come within so many nats of their question's likeliest are not read to
                their ends and get an upper bound; None computes all. 12 costs shares no more than 1e-5 each.
        """
        if len(questions) != len(answers) or not all(answers):
            raise InputError(f"likelihoods got {len(questions)} questions: give answers for each of them.")
        if not questions:
            return []
        listed = [list(dict.fromkeys(own)) for own in answers]
        tails = {answer: self._tail(answer) for own in listed for answer in own}
        prompts = self._encode(questions, regions)
        sums = log_likelihoods(
            self._keys, prompts, [[tails[a] for a in own] for own in listed], within=within
        )
        return [dict(zip(own, row, strict=True)) for own, row in zip(listed, sums, strict=True)]

    def name_shares(
        self, questions: Sequence[str], regions: Sequence[Mapping[int, Region]] | None = None
    ) -> list[dict[str, float]]:
        """How sure the model is of each name that a question asks for: shares of 1, the likeliest name first.

        A softmax over the model's closed list of names, of the likelihoods of whole answers to the question
        with its guide sentence. There are none for a question that asks for something else, or of a model
        without such a list. The conversation is not changed. Arguments and errors as in `likelihoods`.
        """
        about, found = self.about, [dict[str, float]() for _ in questions]
        asked = [turn.question for turn in self.turns]
        wanted = [
            i
            for i, question in enumerate(questions)
            if about.names and asks_for_name([*asked, question], about.vocabulary)
        ]
        rows = self.likelihoods(
            [guided(questions[i], about.vocabulary) for i in wanted],
            [about.names] * len(wanted),
            None if regions is None else [regions[i] for i in wanted],
            within=SHARES_WITHIN,
        )
        for i, row in zip(wanted, rows, strict=True):
            shares = torch.tensor(list(row.values()), dtype=torch.float64).softmax(0).tolist()
            ranked = sorted(zip(row, shares, strict=True), key=lambda pair: -pair[1])
            found[i] = dict(ranked)
        return found

    def choose(self, description: str, numbers: Sequence[int] | None = None) -> tuple[int, dict[int, float]]:
        """Referring by likelihood: which region fits the description best. The answer is computed, not
        generated.

        Every candidate is asked "Is <regionN> …?" and scored by log p("Yes.") - log p("No.").

        Returns:
            The number of the best region, and the score of each candidate (above 0: the model says yes).
        """
        numbers = list(self.regions) if numbers is None else list(numbers)
        if not numbers:
            raise InputError("There is nothing to choose from: add regions first.")
        if not description.strip():
            raise InputError("The description is empty: say what to look for.")
        bare = re.sub(r"^(the|an?)\s+", "", description.strip(), flags=re.IGNORECASE)
        phrase = ("an " if bare[:1].lower() in "aeiou" else "a ") + bare
        questions = [f"Is {mention(n)} {phrase}?" for n in numbers]
        logs = self.score(questions * 2, ["Yes."] * len(numbers) + ["No."] * len(numbers))
        scores = {n: logs[i] - logs[len(numbers) + i] for i, n in enumerate(numbers)}
        return max(scores, key=scores.__getitem__), scores

    # -------------------------------------------------------------------------------------------- the machine

    def _encode(
        self, questions: Sequence[str], regions: Sequence[Mapping[int, Region]] | None = None
    ) -> list[Prompt]:
        """The conversation with each of the questions, as the model reads it. Raises InputError."""
        if regions is not None and len(regions) != len(questions):
            raise InputError(
                f"regions holds {len(regions)} entries for {len(questions)} questions: give one each."
            )
        own = [{**self.regions, **more} for more in (regions or [{}] * len(questions))]
        for question, known in zip(questions, own, strict=True):
            if missing := sorted(set(mentioned(question)) - set(known)):
                names = ", ".join(map(mention, missing))
                raise InputError(f"The question mentions {names} but {self._known()}.")
        past = [(turn.question, turn.answer, turn.regions) for turn in self.turns]
        return encode(self.processor, self._image, past, questions, own)

    def _check_limits(self, max_new_tokens: int, choices: Sequence[str] | None) -> None:
        if choices is not None and not choices:
            raise InputError("choices is empty: give at least one answer that may come out.")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}: expected at least 1.")

    def _room(self, prompt: Prompt, max_new_tokens: int) -> int:
        """How many tokens an answer may have."""
        limit = self.processor.max_length
        return max_new_tokens if limit is None else min(max_new_tokens, limit - len(prompt.ids))

    def _trie(self, choices: Sequence[str]) -> Trie:
        return token_trie((self._tail(choice)[:-1] for choice in choices), self._ends)

    def _tail(self, answer: str) -> list[int]:
        """An answer's tokens, its end included."""
        tokenizer = self.processor.tokenizer
        return [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    def _text(self, ids: list[int]) -> str:
        """An answer in words; a character of several bytes that was cut in the middle is left out."""
        text = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        while ids and text.endswith("\ufffd"):
            ids = ids[:-1]
            text = self.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()
