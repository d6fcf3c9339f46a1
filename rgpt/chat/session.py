"""`ChatSession`: one picture, its regions, a conversation about them. The only loop that talks to the model.

The app, the server, the terminal and the evaluation all ask through this class. A picture is encoded once;
keys and values of earlier turns are kept, so that a follow-up question computes its own tokens only.

Sessions are independent: many may share one model, from several threads. One session is used by one thread
at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from rgpt.errors import ContextLengthError, InputError
from rgpt.prompts import mention
from rgpt.regions import Region, open_image

MENTION = re.compile(r"<region([0-9]{1,9})>")


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


@dataclass
class _Prefix:
    """Keys and values of the tokens computed so far, and what stood at each position."""

    ids: list[int]
    mentioned: list[bytes]
    cache: DynamicCache


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
        self._refined: Tensor | None = None
        self._used: set[int] = set()
        self._prefix: _Prefix | None = None
        self._reused = 0
        ends = model.generation_config.eos_token_id
        ends = processor.tokenizer.eos_token_id if ends is None else ends
        self._ends = set(ends) if isinstance(ends, (list, tuple)) else {ends}
        self._never = [processor.image_token_id, processor.region_token_id]

    @classmethod
    def from_pretrained(cls, name_or_path: str = "tiny", **options: Any) -> ChatSession:
        """A session over a freshly loaded model: `tiny`, a folder, or a hub id. Options go to
        `rgpt.model.load`."""
        from rgpt.model import load

        return cls(*load(name_or_path, **options))

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
        self._image, self._refined = opened, refined
        self.regions, self._used = {}, set()
        self.reset()

    def add_region(self, region: Region, number: int | None = None) -> int:
        """Add a region and return its number, the next free one unless given. Numbers are never given twice.

        Raises:
            InputError: without a picture, for a region outside of it, or for a number that was used before.
        """
        if self._image is None:
            raise InputError("There is no picture to draw a region on: set one first.")
        if number is None:
            number = max(self._used | set(self.regions), default=0) + 1
        elif number < 1 or number in self._used | set(self.regions):
            # Also one that was removed: an old <region1> in the chat must not come to mean another region.
            raise InputError(f"Region number {number} is below 1 or taken: give one never used.")
        region.check_inside(self._image.height, self._image.width)
        self.regions[number] = region
        self._used.add(number)
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
        session = ChatSession(self.model, self.processor)
        session._image, session._refined = self._image, self._refined
        return session

    # ------------------------------------------------------------------------------------------- conversation

    def reset(self) -> None:
        """Forget the turns; picture and regions stay."""
        self.turns = []
        self._prefix = None

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
        self._encode(question)

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
        if choices is not None and not choices:
            raise InputError("choices is empty: give at least one answer that may come out.")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}: expected at least 1.")
        batch = self._encode(question)
        regions = dict(self.regions)
        ids = batch["input_ids"][0].tolist()
        room = (self.processor.max_length or len(ids) + max_new_tokens) - len(ids)
        pick = _Picker(temperature, top_p, seed, self._never)
        trie = None if choices is None else self._trie(choices)
        answer_ids: list[int] = []
        said = ""
        ended = "length"
        try:
            logits = self._prefill(ids, batch)
            for step in range(min(max_new_tokens, room)):
                token = pick(logits, None if trie is None else list(trie))
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
                if step + 1 < min(max_new_tokens, room):
                    logits = self._step(token)
        except GeneratorExit:
            ended = "closed"  # in the middle of an answer: nothing runs on, and what was said is kept below
        # A failure passes by here: a turn that was not answered must not enter later prompts.
        usage = Usage(len(ids), self._reused, len(answer_ids), ended)
        self.turns.append(Turn(question, said.strip(), regions, usage))

    def ask(self, question: str, **options: Any) -> str:
        """The whole answer at once; options as in `stream`."""
        for _ in self.stream(question, **options):
            pass
        return self.turns[-1].answer

    # ------------------------------------------------------------------------------------------- likelihoods

    def score(self, questions: Sequence[str], answers: Sequence[str]) -> list[float]:
        """log p(answer | conversation so far, question) of each pair: the sum over the answer's tokens, end
        included.

        One batched pass; the conversation itself is not changed.
        """
        if not questions and not answers:
            return []
        if len(questions) != len(answers):
            raise InputError(
                f"score got {len(questions)} questions but {len(answers)} answers: give one answer each."
            )
        rows, lengths, features = [], [], []
        for question, answer in zip(questions, answers, strict=True):
            batch = self._encode(question)
            tail = [
                *self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"],
                self.processor.tokenizer.eos_token_id,
            ]
            rows.append(batch["input_ids"][0].tolist() + tail)
            lengths.append(len(tail))
            features.append(self._project(batch))
        pad = self.processor.tokenizer.pad_token_id or 0
        longest = max(map(len, rows))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=self.model.device)
        joined = _join(features)
        with torch.inference_mode():
            outputs = self.model(
                input_ids=ids,
                attention_mask=torch.tensor(
                    [[1] * len(r) + [0] * (longest - len(r)) for r in rows], device=ids.device
                ),
                mm_encoder_outputs=None if joined is None else {"image": joined},
                use_cache=False,
            )
            logs = outputs.logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return [
            float(logs[i, len(row) - 1 - length : len(row) - 1].sum())
            for i, (row, length) in enumerate(zip(rows, lengths, strict=True))
        ]

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

    def _encode(self, question: str) -> Any:
        """The conversation with the new question as model inputs (pixels left out: the picture is
        encoded)."""
        if not question.strip():
            raise InputError("The question is empty: type one.")
        if not question.isprintable() and any("\ud800" <= c <= "\udfff" for c in question):
            raise InputError("The question is not valid text (it holds half a character): type it again.")
        regions = {
            number: region for turn in self.turns for number, region in turn.regions.items()
        } | self.regions
        asked = {int(n) for n in MENTION.findall(question)}
        if missing := sorted(asked - set(self.regions)):
            raise InputError(f"The question mentions {', '.join(map(mention, missing))} but {self._known()}.")
        messages: list[dict[str, Any]] = []
        for turn in self.turns:
            messages.append({"role": "user", "content": [{"type": "text", "text": turn.question}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
        messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
        if self._image is not None:
            messages[0]["content"].insert(0, {"type": "image", "image": self._image})
        batch = self.processor.encode_chat(
            messages, regions=regions or None, add_generation_prompt=True, return_pixel_values=False
        )
        length, limit = batch["input_ids"].shape[1], self.processor.max_length
        if limit is not None and length >= limit:
            raise ContextLengthError(
                f"The conversation has {length} tokens but the context holds {limit}: no room for an answer; "
                "shorten the question or start a new conversation."
            )
        return batch

    def _project(self, batch: Any) -> Any:
        if self._refined is None:
            return None
        with torch.inference_mode():
            return self.model.model.project(
                self._refined, batch.get("region_masks"), batch.get("region_index")
            )

    def _prefill(self, ids: list[int], batch: Any) -> Tensor:
        """Compute what is not in the cache yet and return the logits `[V]` of the next token."""
        mentioned = batch_regions(batch)
        keep = 0
        if self._prefix is not None:
            keep = min(_common(self._prefix.ids, ids), len(ids) - 1)
            places = [i for i, token in enumerate(ids) if token == self.processor.region_token_id]
            same = _common(self._prefix.mentioned, mentioned)
            if same < len(places):  # a slot whose region differs, though its token is the same
                keep = min(keep, places[same])
        if self._prefix is None or keep == 0:
            self._prefix = _Prefix([], [], DynamicCache(config=self.model.config.get_text_config()))
            keep = 0
        prefix = self._prefix
        if surplus := len(prefix.ids) - keep:
            prefix.cache.crop(-surplus)
        prefix.ids, prefix.mentioned = ids[:keep], mentioned
        self._reused = keep
        features = _after(self._project(batch), ids[:keep], self.processor)
        return self._forward(ids[keep:], features)

    def _step(self, token: int) -> Tensor:
        return self._forward([token], None)

    def _forward(self, new: list[int], features: Any) -> Tensor:
        assert self._prefix is not None
        try:
            with torch.inference_mode():
                outputs = self.model(
                    input_ids=torch.tensor([new], device=self.model.device),
                    past_key_values=self._prefix.cache,
                    mm_encoder_outputs=None if features is None else {"image": features},
                    use_cache=True,
                    logits_to_keep=1,
                )
        except BaseException:
            # Some layers may hold keys of these tokens and others not: half a cache is no cache.
            self._prefix = None
            raise
        self._prefix.ids += new
        return outputs.logits[0, -1]

    def _trie(self, choices: Sequence[str]) -> dict[int, Any]:
        """Nested dicts of token ids; every choice ends with an end token."""
        root: dict[int, Any] = {}
        for choice in choices:
            node = root
            for token in self.processor.tokenizer(choice, add_special_tokens=False)["input_ids"]:
                node = node.setdefault(token, {})
            for end in self._ends:
                node[end] = {}
        return root


class _Picker:
    """The next token from logits: the likeliest, or drawn at a temperature."""

    def __init__(self, temperature: float, top_p: float, seed: int | None, never: Sequence[int]) -> None:
        if not (math.isfinite(temperature) and temperature >= 0) or not 0 < top_p <= 1:
            raise InputError(
                f"temperature {temperature} and top_p {top_p} must be at least 0, and in (0, 1]."
            )
        if seed is not None and not 0 <= seed < 2**63:
            raise InputError(f"seed is {seed}: expected a whole number from 0 to 2**63 - 1.")
        # Logits divided by almost nothing overflow; the likeliest token is what the limit means.
        self.temperature, self.never = (temperature if temperature > 1e-4 else 0.0), list(never)
        self.warpers = LogitsProcessorList()
        if self.temperature > 0:
            self.warpers.append(TemperatureLogitsWarper(float(temperature)))
            self.warpers.append(TopPLogitsWarper(float(top_p)))
        self.generator = torch.Generator()
        self.generator.seed() if seed is None else self.generator.manual_seed(seed)

    def __call__(self, logits: Tensor, allowed: Sequence[int] | None) -> int:
        logits = logits.float().cpu().clone()
        logits[self.never] = -torch.inf
        if allowed is not None:
            mask = torch.full_like(logits, -torch.inf)
            mask[list(allowed)] = 0.0
            logits = logits + mask
        if self.temperature == 0:
            return int(logits.argmax())
        scores = self.warpers(torch.empty(1, 0, dtype=torch.long), logits[None])[0]
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))


def batch_regions(batch: Any) -> list[bytes]:
    """Something comparable for the region of every mention of a one-row batch, in order of the mentions."""
    index = batch.get("region_index")
    if index is None:
        return []
    masks = batch["region_masks"].flatten(0, 1)
    return [masks[i].numpy().tobytes() for i in index.tolist()]


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many leading items two sequences share."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def _after(features: Any, kept: list[int], processor: Any) -> Any:
    """What of the features stands after the kept tokens: image tokens and region slots not computed yet."""
    if features is None:
        return None
    regions = features.region_features
    if regions is not None:
        done = kept.count(processor.region_token_id)
        regions = regions[done:] if done < len(regions) else None
    image_done = processor.image_token_id in kept
    tokens = features.pooler_output[:0] if image_done else features.pooler_output
    if image_done and regions is None:
        return None
    return type(features)(pooler_output=tokens, region_features=regions)


def _join(features: Sequence[Any]) -> Any:
    """Features of several one-row prompts as those of one batch."""
    if features[0] is None:
        return None
    regions = [f.region_features for f in features if f.region_features is not None]
    return type(features[0])(
        pooler_output=torch.cat([f.pooler_output for f in features]),
        region_features=torch.cat(regions) if regions else None,
    )
