"""`ChatSession`: what the app, the server, the terminal, training and the evaluation ask through.

Beside questions one after another: many at once, and answers that are computed rather than generated, from
likelihoods.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from typing import Any

from rgpt.chat.branches import Growing, decode, log_likelihoods
from rgpt.chat.grammar import Grammar, read_vocabulary
from rgpt.chat.picking import Picker, Rule
from rgpt.chat.pieces import Piece, Token, Usage, Words
from rgpt.chat.session import Session
from rgpt.errors import ContextLengthError, InputError
from rgpt.model.about import About
from rgpt.model.calibration import Calibration
from rgpt.model.conversation import Conversation
from rgpt.prompts import asks_for_name, guided, mention
from rgpt.regions import Region

ENCODED_AT_ONCE = 16
SHARES_WITHIN = 12.0
"""Nats: a name that is less likely than the likeliest by more than this has a share below 1e-5 (2e-4 at the
temperature of `photo`)."""


class ChatSession(Session):
    """A conversation about one picture. The only loop that talks to the model.

    Args:
        model: a `RegionGPTForConditionalGeneration` in eval mode.
        processor: the `RegionGPTProcessor` saved with it.
    """

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

    def calibration(self, task: str) -> Calibration:
        """How the model's shares of a task of `rgpt.model.calibration.TASKS` become sureness."""
        return getattr(self.model, "calibration", {}).get(task, Calibration())

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
        **options: Any,
    ) -> list[str]:
        """Many questions that do not know of each other, each asked in the conversation so far, in one batch.

        Each answer is what `ask` would give; the conversation itself is not changed. Arguments and errors as
        in `stream_each`.
        """
        answers = [""] * len(questions)
        for pieces in self.stream_each(questions, regions, **options):
            for piece in pieces:
                answers[piece.number] += piece.text
        return [answer.strip() for answer in answers]

    def stream_each(
        self,
        questions: Sequence[str],
        regions: Sequence[Mapping[int, Region]] | None = None,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] | None = None,
        choices: Sequence[str] | None = None,
        grammar: Callable[[], Rule] | None = None,
        top_logprobs: int | None = None,
        stopped: Container[int] = (),
        batch_size: int = 32,
    ) -> Generator[list[Piece], None, None]:
        """As `ask_each`, and yields what every pass adds to the answers. Closing it stops the computation.

        Lists may be empty: others that share the thread may go on in between.

        Args:
            regions: for each question, regions that it has instead of or besides the session's.
            seed: of every answer, or one each.
            grammar: makes the rule of an answer (`rgpt.chat.grammar`).
            top_logprobs: pieces bring their tokens, each with its log-probability and so many of the
                likeliest ones.
            stopped: numbers of answers that need not go on; may grow meanwhile.
            batch_size: so many answers grow together. More is faster until the keys of all answers, which
                stand in one row, outgrow the processor's cache.
            others: as in `stream`.

        Raises:
            InputError: as `stream`, before anything is computed.
        """
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: expected at least 1.")
        if not questions:
            return
        self._check_limits(max_new_tokens, choices)
        rule = grammar or self._closed_set(choices)
        seeds = [seed] * len(questions) if seed is None or isinstance(seed, int) else seed
        pickers = [
            Picker(temperature, top_p, each, self._never, self._no_repeat, rule and rule(), top_logprobs)
            for each in seeds
        ]
        prompts = yield from self._encode_in_turns(questions, regions)
        answers = [
            Growing(prompt, pick, self._room(prompt, max_new_tokens))
            for prompt, pick in zip(prompts, pickers, strict=True)
        ]
        words = [Words(self.processor.tokenizer) for _ in answers]
        with closing(decode(self._keys, answers, self._ends, batch_size)) as passes:
            for tokens in passes:
                yield [self._piece(i, token, answers[i], words[i]) for i, token in tokens]
                for i, _ in tokens:
                    answers[i].stopped = i in stopped

    def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """The rule that an answer is JSON of this schema, for `stream_each`. May be made on another thread.

        Raises:
            InputError: the schema, the tokenizer or the environment does not allow it.
        """
        size = self.model.config.get_text_config().vocab_size
        return Grammar(_vocabulary(self.processor.tokenizer, size, frozenset(self._ends)), schema)

    def _piece(self, number: int, token: int, answer: Growing, words: Words) -> Piece:
        """What a token adds to an answer."""
        told: tuple[Token, ...] = ()
        ended = "stop" if token in self._ends else ""
        if not ended and answer.pick.top is not None:
            logprob, top = answer.pick.told
            likeliest = tuple((words.would(other), value) for other, value in top)
            told = (Token(words.would(token), logprob, likeliest),)
        text = "" if ended else words.add(token)
        if not ended and len(words.ids) == answer.limit:
            ended = "length"
        count = len(answer.prompt.ids), answer.cached, len(words.ids)
        return Piece(number, text, told, Usage(*count, ended))

    def _encode_in_turns(
        self,
        questions: Sequence[str],
        regions: Sequence[Mapping[int, Region]] | None,
        rooms: Sequence[int] | None = None,
    ) -> Generator[list[Any], None, list[Conversation]]:
        """`_encode`, some questions at a time: regions of a large picture take a while to be laid down."""
        if regions is not None and len(regions) != len(questions):
            return self._encode(questions, regions, rooms)  # refuses it
        prompts: list[Conversation] = []
        for start in range(0, len(questions), ENCODED_AT_ONCE):
            part = slice(start, start + ENCODED_AT_ONCE)
            prompts += self._encode(questions[part], regions and regions[part], rooms and rooms[part])
            yield []
        return prompts

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
        if not names or not all(name.strip() for name in names):
            raise InputError("names is empty or holds an empty name: give the names to rank.")
        lengths = self.lengths(names)
        rows = self.likelihoods(questions, [names] * len(questions), regions)
        return [{name: total / lengths[name] for name, total in row.items()} for row in rows]

    def lengths(self, answers: Sequence[str]) -> dict[str, int]:
        """Tokens of each answer, its end included."""
        return {answer: len(self._tail(answer)) for answer in answers}

    def score(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """log p(answer | conversation so far, question) of each pair: the sum over the answer's tokens, end
        included.

        One batched pass; the conversation itself is not changed.
        """
        if len(questions) != len(answers):
            raise InputError(
                f"score got {len(questions)} questions but {len(answers)} answers: give one answer each."
            )
        own: dict[str, list[str]] = {question: [] for question in questions}
        for question, answer in zip(questions, answers, strict=True):
            own[question].append(answer)
        rows = dict(zip(own, self.likelihoods(list(own), list(own.values())), strict=True))
        return [rows[question][answer] for question, answer in zip(questions, answers, strict=True)]

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
        found: list[dict[str, float]] = []
        for rows in self.stream_likelihoods(questions, answers, regions, within=within):
            found += [row for row, _ in rows]
        return found

    def stream_likelihoods(
        self,
        questions: Sequence[str],
        answers: Sequence[Sequence[str]],
        regions: Sequence[Mapping[int, Region]] | None = None,
        *,
        within: float | None = None,
        most: int = 2048,
    ) -> Generator[list[tuple[dict[str, float], Usage]], None, None]:
        """As `likelihoods`, and yields questions' rows in their order as they are computed.

        Lists may be empty: others that share the thread may go on in between.

        Args:
            most: tokens behind the common prefix that are read in one pass.
        """
        if len(questions) != len(answers) or not all(answers):
            raise InputError(f"likelihoods got {len(questions)} questions: give answers for each of them.")
        if not questions:
            return
        listed = [list(dict.fromkeys(own)) for own in answers]
        tails = {answer: self._tail(answer) for own in listed for answer in own}
        # The last token of an answer is looked up and never read.
        rooms = [max(len(tails[answer]) for answer in own) - 1 for own in listed]
        prompts = yield from self._encode_in_turns(questions, regions, rooms)
        try:
            own_tails = [[tails[a] for a in own] for own in listed]
            passes = log_likelihoods(self._keys, prompts, own_tails, most, within)
            for own, prompt, (row, cached) in zip(listed, prompts, passes, strict=True):
                usage = Usage(len(prompt.ids), cached, 0, "stop")
                yield [(dict(zip(own, row, strict=True)), usage)]
        except GeneratorExit:  # closed between two passes: nothing is half done
            raise
        except BaseException:  # Ctrl-C in the middle of one: what is cached may not be what is noted down
            self._keys.clear()
            raise

    def name_shares(
        self, questions: Sequence[str], regions: Sequence[Mapping[int, Region]] | None = None
    ) -> list[dict[str, float]]:
        """How sure the model is of each name that a question asks for: shares of 1, the likeliest name first.

        A softmax over the model's closed list of names, of the likelihoods of whole answers to the question
        with its guide sentence, at the temperature that was fitted for this model. There are none for a
        question that asks for something else, where guide sentence and names find no room in the context, or
        of a model without such a list. The conversation is not changed. Arguments and errors as in
        `likelihoods`.
        """
        about, found = self.about, [dict[str, float]() for _ in questions]
        asked = [turn.question for turn in self.turns]
        wanted = []
        if about.names:
            room = max(len(self._tail(name)) for name in about.names) - 1
            for i, question in enumerate(questions):
                if asks_for_name([*asked, question], about.vocabulary):
                    with suppress(ContextLengthError):  # the answer itself needs less
                        own = None if regions is None else [regions[i]]
                        self._encode([guided(question, about.vocabulary)], own, [room])
                        wanted.append(i)
        rows = self.likelihoods(
            [guided(questions[i], about.vocabulary) for i in wanted],
            [about.names] * len(wanted),
            None if regions is None else [regions[i] for i in wanted],
            within=SHARES_WITHIN,
        )
        calibration = self.calibration("name")
        for i, row in zip(wanted, rows, strict=True):
            found[i] = calibration.shares(row)
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
        questions = [fits(description, n) for n in numbers]
        logs = self.score(questions * 2, ["Yes."] * len(numbers) + ["No."] * len(numbers))
        scores = {n: logs[i] - logs[len(numbers) + i] for i, n in enumerate(numbers)}
        return max(scores, key=scores.__getitem__), scores


_vocabulary = lru_cache(2)(read_vocabulary)


def fits(description: str, number: int) -> str:
    """The question whether a region is what a description says."""
    bare = re.sub(r"^(the|an?)\s+", "", description.strip(), flags=re.IGNORECASE)
    return f"Is {mention(number)} {'an' if bare[:1].lower() in 'aeiou' else 'a'} {bare}?"
