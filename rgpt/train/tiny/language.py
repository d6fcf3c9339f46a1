"""The language model of `tiny`: its tokenizer, and its warm-up on symbolic scenes before it sees a picture.

A 7B model comes to region tuning already able to speak and compare; a model of a million parameters has to
learn that first. In the warm-up a region's slot holds the sum of embeddings of its true attributes and
position (`SymbolicEyes`), so the language model learns to read, compare, choose, count and answer without
waiting for a vision tower.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rgpt.data.scene_questions import MAKERS, Exchange, Numbered, conversation, number_objects
from rgpt.data.scenes import COLOURS, SHAPES, SIDE, SIZES, TEXTURES, Scene, sample_scene
from rgpt.hub import open_pretrained
from rgpt.model.batch import make_batch
from rgpt.model.conversation import IGNORED, Conversation
from rgpt.prompts import MENTION, mentioned
from rgpt.train.tiny.muon import StackedMuon

Item = TypeVar("Item")

HIDDEN = 128
MERGE_GRID = 6
IMAGE_TOKEN, REGION_TOKEN, END_TOKEN, PAD_TOKEN = "<image>", "<region>", "</s>", "<pad>"
PIECES = r" ?\[\d+\]| ?[A-Za-z]+| ?\d+| ?[^\sA-Za-z\d]|\s"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every word of the drawn-scene questions is one token and any other text
    still works."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("“", '"'), normalizers.Replace("”", '"')]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(_texts()), trainer)
    tokenizer.add_special_tokens(
        [PAD_TOKEN, END_TOKEN, IMAGE_TOKEN, AddedToken(REGION_TOKEN, lstrip=True, special=True)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        extra_special_tokens={"image_token": IMAGE_TOKEN, "region_token": REGION_TOKEN},
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _texts() -> set[str]:
    """Every distinct word of the questions and answers, with and without the blank before it."""
    words: set[str] = set()
    for seed in range(3000):
        rng = random.Random(seed)
        numbered = number_objects(sample_scene(seed), rng)
        for maker in MAKERS.values():
            if made := maker(numbered, rng):
                for text in (made.question, made.answer):
                    words.update(re.findall(r"[A-Za-z]+", written(text)))
    words |= {w[0].lower() + w[1:] for w in words} | {w[0].upper() + w[1:] for w in words}
    numbers = {f"[{n}]" for n in range(1, 10)} | {str(n) for n in range(10)}
    return {prefix + word for word in words | numbers for prefix in ("", " ")} | {' "', " <"}


def written(text: str) -> str:
    """`<region2>` -> `[2] <region>`: the number stands before the slot, so that an answer can say "Region
    [2]"."""
    return MENTION.sub(r"[\1] <region>", text)


def language_config(vocab_size: int, end_id: int, pad_id: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=None,
        eos_token_id=end_id,
        pad_token_id=pad_id,
    )


class Writer:
    """Exchanges -> token ids in the `lines` template: question, newline, answer, end token."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.backend = tokenizer.backend_tokenizer
        self.end = tokenizer.convert_tokens_to_ids(END_TOKEN)
        self.image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.region = tokenizer.convert_tokens_to_ids(REGION_TOKEN)
        self.pad = tokenizer.convert_tokens_to_ids(PAD_TOKEN)

    def write(
        self, numbered: Numbered, exchanges: Sequence[Exchange], image: bool, rng: random.Random
    ) -> Conversation:
        """A training sequence; its regions are the objects of the scene, whose weights the caller has."""
        texts: list[str] = []
        numbers: list[int] = []
        for i, e in enumerate(exchanges):
            question = _as_typed(e.question, rng)
            numbers += mentioned(question)
            start = f"{IMAGE_TOKEN * MERGE_GRID**2}\n" if image and i == 0 else ""
            texts += [start + written(question) + "\n", e.answer]
        ids: list[int] = []
        labels: list[int] = []
        for i, encoding in enumerate(self.backend.encode_batch(texts, add_special_tokens=False)):
            piece = encoding.ids + ([self.end] if i % 2 else [])
            ids += piece
            labels += piece if i % 2 else [IGNORED] * len(piece)
        mentions = [numbered.order[n - 1] for n in numbers]
        return Conversation(torch.tensor(ids), torch.tensor(labels), mentions=mentions)


def _as_typed(question: str, rng: random.Random) -> str:
    """People do not always type capitals and question marks: neither does the training text."""
    if rng.random() < 0.12 and not question.startswith("<"):
        question = question[0].lower() + question[1:]
    if rng.random() < 0.08 and question[-1] in "?.":
        question = question[:-1]
    return question


class SymbolicEyes(nn.Module):
    """True attributes and positions of objects -> region slots `[R, 128]` and image tokens `[36, 128]` a
    picture."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes = nn.ModuleList(
            nn.Embedding(len(v), HIDDEN) for v in (SHAPES, COLOURS, TEXTURES, SIZES)
        )
        for table in self.attributes:
            nn.init.normal_(table.weight, std=0.04)  # type: ignore[arg-type]
        self.place = nn.Linear(16, HIDDEN)
        self.cells = nn.Parameter(torch.randn(MERGE_GRID**2, HIDDEN) * 0.04)
        # Half as loud as the attributes: a position that drowns them, or the reverse, is learned alone.
        nn.init.normal_(self.place.weight, std=0.014)
        nn.init.zeros_(self.place.bias)

    def content(self, attributes: Tensor) -> Tensor:
        return sum(table(attributes[..., i]) for i, table in enumerate(self.attributes))  # type: ignore[return-value]

    def regions(self, attributes: Tensor, centres: Tensor) -> Tensor:
        """int `[R, 4]`, float `[R, 2]` in 0..1 -> `[R, 128]`"""
        waves = centres[..., None] * torch.tensor([1.0, 2.0, 4.0, 8.0]) * math.pi / 2
        features = torch.cat([waves.sin(), waves.cos()], -1).flatten(-2)
        return self.content(attributes) + self.place(features)

    def pictures(self, attributes: Tensor, centres: Tensor, present: Tensor) -> Tensor:
        """int `[B, 6, 4]`, `[B, 6, 2]`, bool `[B, 6]` -> image tokens `[B, 36, 128]`: objects splat around
        their centres."""
        axis = (torch.arange(MERGE_GRID) + 0.5) / MERGE_GRID
        near = (1 - (centres[..., None] - axis).abs() * MERGE_GRID).clamp_min(0)  # [B, 6, 2, 6], bilinear
        weights = (near[:, :, 1, :, None] * near[:, :, 0, None, :]).flatten(2) * present[..., None]
        return weights.transpose(1, 2) @ self.content(attributes) + self.cells


def scene_tensors(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Attributes int `[B, 6, 4]`, centres in the padded square float `[B, 6, 2]`, present bool `[B, 6]`."""
    attributes = torch.zeros(len(scenes), 6, 4, dtype=torch.long)
    centres = torch.zeros(len(scenes), 6, 2)
    present = torch.zeros(len(scenes), 6, dtype=torch.bool)
    for i, scene in enumerate(scenes):
        left, top = (SIDE - scene.width) / 2, (SIDE - scene.height) / 2
        for j, o in enumerate(scene.objects):
            values = (
                SHAPES.index(o.shape),
                COLOURS.index(o.colour),
                TEXTURES.index(o.texture),
                SIZES.index(o.size),
            )
            attributes[i, j] = torch.tensor(values)
            centres[i, j] = torch.tensor([(o.x + left) / SIDE, (o.y + top) / SIDE])
            present[i, j] = True
    return attributes, centres, present


def pad_batch(conversations: Sequence[Conversation], pad: int, multiple: int = 16) -> tuple[Tensor, Tensor]:
    """Right-padded ids `[B, L]` and labels `[B, L]` (-100 where nothing is supervised), L a multiple of
    `multiple`."""
    length = -(-max(map(len, conversations)) // multiple) * multiple
    batch = make_batch([[replace(c, mentions=[])] for c in conversations], pad, length)
    return batch["input_ids"], batch["labels"]


def sequence_loss(language: LlamaForCausalLM, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss over supervised tokens, and the share of them that greedy decoding would get right.

    Rows are right-padded and attention is causal, so no mask is needed: padding stands behind everything. The
    vocabulary projection runs on supervised positions only.
    """
    hidden = language.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    return supervised_loss(language.lm_head, hidden, labels)


def supervised_loss(head: nn.Module, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """`sequence_loss` of the last hidden states `[B, L, D]`."""
    keep = labels[:, 1:] != IGNORED
    logits, target = head(hidden[:, :-1][keep]), labels[:, 1:][keep]
    return F.cross_entropy(logits, target), (logits.argmax(-1) == target).float().mean()


BATCH_TOKENS = 2560
WARM_UP_SEEDS = (2_000_000, 2_000_000_000)

# Shares of *tokens*, not of conversations: a referring question with six candidates is five times as long as
# a caption. With shares of conversations nine tenths of all steps were referring, and nothing was learned
# (docs/decisions.md).
FIRST_SHARES = {
    "classification": 1.0, "brief_caption": 2.0, "verify": 1.5, "compare_size": 0.7, "compare_attribute": 0.7,
    "relation": 0.5,
}  # fmt: skip
SHORT_SHARES = {
    "referring": 4.0, "verify": 2.0, "verify_relation": 1.5, "relation": 1.2, "compare_size": 0.8,
    "compare_attribute": 1.5, "classification": 0.5, "brief_caption": 0.8,
}  # fmt: skip
LONG_SHARES = {
    "referring": 3.0, "verify": 1.0, "verify_relation": 0.8, "relation": 0.8, "compare_size": 0.5,
    "compare_attribute": 0.8, "classification": 0.8, "brief_caption": 0.8, "detailed_caption": 1.0,
    "exists": 1.2, "count": 1.5, "picture_caption": 1.5,
}  # fmt: skip
DIRECTION_SHARES = {
    **SHORT_SHARES, "relation": 3.5, "verify_relation": 3.0, "verify": 1.2, "compare_attribute": 1.2,
}  # fmt: skip
DIRECTIONS_FROM = 0.5
"""From this share of the warm-up on, positions are three times as loud and asked about more. Loud from the
start, they drown the attributes; quiet to the end, directions stay at chance (docs/decisions.md)."""
LENGTHS = {
    "referring": 70, "verify": 16, "verify_relation": 18, "relation": 24, "compare_size": 20,
    "compare_attribute": 28, "classification": 30, "brief_caption": 18, "detailed_caption": 34, "exists": 12,
    "count": 11, "picture_caption": 30,
}  # fmt: skip
"""Tokens of a task's usual exchange (with its follow-ups), to turn shares of tokens into weights."""


def task_weights(shares: Mapping[str, float], tasks: Sequence[str] | None = None) -> dict[str, float]:
    """Shares of tokens -> how often to draw each task; `tasks` keeps only these."""
    return {name: share / LENGTHS[name] for name, share in shares.items() if tasks is None or name in tasks}


def sample_conversation(
    writer: Writer,
    scene: Scene,
    rng: random.Random,
    long: bool,
    progress: float = 1.0,
    tasks: Sequence[str] | None = None,
) -> Conversation:
    """One training sequence about a scene: short ones (one question, no picture) or long mixtures.

    `progress` in 0..1 sets how far the curriculum of short ones is: single objects and pairs first, then
    choosing among two or three candidates, then among up to six.
    """
    if long:
        numbered = number_objects(scene, rng)
        exchanges = conversation(numbered, rng, rng.randint(2, 5), task_weights(LONG_SHARES, tasks))
        return writer.write(numbered, exchanges, True, rng)
    most = 2 if progress < 0.1 else 3 if progress < 0.25 else 6
    numbered = number_objects(scene, rng, min(len(scene.objects), rng.randint(2, most)))
    shares = SHORT_SHARES if progress < DIRECTIONS_FROM else DIRECTION_SHARES
    weights = task_weights(FIRST_SHARES if progress < 0.1 else shares, tasks)
    return writer.write(numbered, conversation(numbered, rng, 1, weights), False, rng)


def groups_of_like_length(
    pool: list[Item], length: Callable[[Item], int], tokens: int, rng: random.Random
) -> list[list[Item]]:
    """The pool as shuffled batches of about `tokens` tokens whose rows are alike in length: little
    padding."""
    batches: list[list[Item]] = [[]]
    for item in sorted(pool, key=length):
        if (len(batches[-1]) + 1) * length(item) > tokens:
            batches.append([])
        batches[-1].append(item)
    rng.shuffle(batches)
    return batches


def symbolic_pool(
    writer: Writer, rng: random.Random, long: bool, progress: float, tasks: Sequence[str] | None, tokens: int
) -> list[list[tuple[Conversation, Scene]]]:
    """Batches of 400 fresh conversations about scenes that are never drawn."""
    pool: list[tuple[Conversation, Scene]] = []
    while len(pool) < 400:
        scene = sample_scene(rng.randrange(*WARM_UP_SEEDS), 2, 6)
        if len(scene.objects) > 1:
            pool.append((sample_conversation(writer, scene, rng, long, progress, tasks), scene))
    return groups_of_like_length(pool, lambda pair: len(pair[0]), tokens, rng)


def build_optimizers(
    language: LlamaForCausalLM, others: list[nn.Parameter], lr: float, muon: bool
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer layers, AdamW for embeddings, norms and whatever stands
    outside."""
    matrices = [p for p in language.model.layers.parameters() if p.ndim == 2] if muon else []
    taken = {id(p) for p in matrices}
    rest = [p for p in language.parameters() if id(p) not in taken] + others
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    ]
    if matrices:
        optimizers.append(StackedMuon(matrices, lr=2 * lr))
    return optimizers


def warm_up(
    out: Path,
    steps: int,
    *,
    lr: float = 1e-3,
    seed: int = 0,
    max_seconds: float = math.inf,
    muon: bool = True,
    resume: Path | None = None,
    first_progress: float = 0.0,
    tasks: Sequence[str] | None = None,
    tokens: int = BATCH_TOKENS,
) -> dict[str, float]:
    """Train the language model on symbolic scenes and save it with its tokenizer to `out`.

    Args:
        resume: a folder this function saved; go on from its weights.
        first_progress: where in the curriculum and the learning-rate schedule to begin, in 0..1.
        tasks: only these tasks; None: all.
        tokens: size of a batch.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(out)
    writer = Writer(tokenizer)
    language = LlamaForCausalLM(language_config(len(tokenizer), writer.end, writer.pad))
    eyes = SymbolicEyes()
    if resume is not None:
        language = open_pretrained(LlamaForCausalLM, resume)
        eyes.load_state_dict(load_file(resume / "eyes.safetensors"))
    loud = first_progress > DIRECTIONS_FROM  # saved eyes of that time are loud already
    parameters = [*language.parameters(), *eyes.parameters()]
    optimizers = build_optimizers(language, [*eyes.parameters()], lr, muon)
    right = {False: 0.0, True: 0.0}
    losses = {False: 8.0, True: 8.0}
    pools: dict[bool, list[list[tuple[Conversation, Scene]]]] = {False: [], True: []}
    rising = min(100, max(1, steps // 10))
    began = time.time()
    progress = tqdm(range(steps), desc="language", mininterval=5)
    for step in progress:
        done = first_progress + (1 - first_progress) * max(step / steps, (time.time() - began) / max_seconds)
        if done >= 1:
            break
        factor = min(1.0, (step + 1) / rising) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor
        long = done > 0.4 and step % 3 == 0
        if done > DIRECTIONS_FROM and not loud:
            loud = True
            eyes.place.weight.data.mul_(3.0)
        if not pools[long]:
            pools[long] = symbolic_pool(writer, rng, long, done, tasks, tokens)
        batch = pools[long].pop()
        ids, labels = pad_batch([c for c, _ in batch], writer.pad)
        attributes, centres, present = scene_tensors([scene for _, scene in batch])
        slots = [(i, r) for i, (c, _) in enumerate(batch) for r in c.mentions]
        rows, objects = (torch.tensor(x) for x in zip(*slots, strict=True))
        embeddings = language.get_input_embeddings()(ids)
        vectors = eyes.regions(attributes[rows, objects], centres[rows, objects])
        vectors = vectors + 0.15 * vectors.detach().std() * torch.randn_like(
            vectors
        )  # towers are not exact either
        embeddings = embeddings.masked_scatter((ids == writer.region)[..., None], vectors)
        if long:
            pictures = eyes.pictures(attributes, centres, present)
            embeddings = embeddings.masked_scatter((ids == writer.image)[..., None], pictures)
        loss, share = sequence_loss(language, embeddings, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        right[long] += 0.02 * (share.item() - right[long])
        losses[long] += 0.02 * (loss.item() - losses[long])
        if step % 20 == 0:
            progress.set_postfix_str(
                f"loss short {losses[False]:.3f} long {losses[True]:.3f} "
                f"right short {right[False]:.3f} long {right[True]:.3f}"
            )
        if step % 250 == 249:
            language.save_pretrained(out)
            save_file(eyes.state_dict(), out / "eyes.safetensors")
    language.save_pretrained(out)
    save_file(eyes.state_dict(), out / "eyes.safetensors")
    return {
        "seconds": time.time() - began,
        "steps": step + 1,
        "right_short": right[False],
        "right_long": right[True],
    }
