"""The two stages of `tiny`, on cached features of its frozen tower.

Stage `align` trains refinement and connector against a frozen language model, stage `tune` everything but
the tower: the paper's recipe, with drawn scenes as data. Because the tower is frozen in both, every picture
passes through it once.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModel, LlamaForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

import rgpt.model as rgpt_model
from rgpt.data.scene_questions import conversation, number_objects
from rgpt.errors import InputError
from rgpt.files import whole_file
from rgpt.hub import open_pretrained
from rgpt.model.conversation import Conversation
from rgpt.train.stages import apply_stage
from rgpt.train.tiny.choosing_questions import drill_exchange
from rgpt.train.tiny.language import (
    LONG_SHARES,
    MERGE_GRID,
    Writer,
    groups_of_like_length,
    pad_batch,
    supervised_loss,
    task_weights,
)
from rgpt.train.tiny.muon import StackedMuon
from rgpt.train.tiny.scene_store import MAX_OBJECTS, Shard, pixel_values, read_shards, region_weights
from rgpt.train.tiny.tower import tower_map

BATCH_TOKENS = 7000
STAGE_SHARES = {
    # The language model comes knowing directions; what the fresh connector learns last is where things are.
    "align": {**LONG_SHARES, "relation": 6.0, "verify_relation": 3.0, "detailed_caption": 2.0},
    "tune": {
        "referring": 4.0, "verify": 0.7, "verify_relation": 1.7, "relation": 2.0, "compare_size": 0.4,
        "compare_attribute": 1.2, "classification": 0.7, "brief_caption": 0.7, "detailed_caption": 1.6,
        "exists": 1.4, "count": 2.0, "picture_caption": 1.8,
    },
}  # fmt: skip
"""Shares of tokens by task in each stage (see `task_weights`)."""


CHOOSING, WITHOUT_PICTURE = 0.4, 0.3
"""Share of the pools of stage 2 that are short questions choosing among regions (`choosing.py`), and of these
the share without a picture before them. Learned without pictures alone, choosing is lost behind one."""


@dataclass
class Features:
    """Tower features of a whole store: float16 `[n, 128, 12, 12]` beside the shard each row came from."""

    shards: list[Shard]
    maps: list[Tensor]

    def __len__(self) -> int:
        return sum(len(m) for m in self.maps)


def cache_features(store: Path, tower: nn.Module, cache: Path) -> Features:
    """Run every picture of the store through the frozen tower once; shards found in `cache` are read
    instead."""
    tower.eval()
    cache.mkdir(parents=True, exist_ok=True)
    shards = list(read_shards(store))
    maps = []
    for k, shard in enumerate(tqdm(shards, desc="tower features", unit="shard", mininterval=5)):
        path = cache / f"{k:05d}.safetensors"
        if not path.exists():
            pieces = []
            for start in range(0, len(shard.seeds), 128):
                pixels = torch.from_numpy(pixel_values(shard.images[start : start + 128]))
                with torch.inference_mode():
                    pieces.append(tower_map(tower, pixels.to(memory_format=torch.channels_last)).half())
            with whole_file(path) as partial:
                save_file({"features": torch.cat(pieces).contiguous()}, partial)
        maps.append(load_file(path)["features"])
        if len(maps[-1]) != len(shard.seeds):
            raise InputError(
                f"{path} has features of {len(maps[-1])} scenes, its shard {len(shard.seeds)}: delete it."
            )
        # No longer needed, the features stand for the pictures; a view would keep all of them in memory.
        shard.images = np.empty((0, *shard.images.shape[1:]), np.uint8)
    return Features(shards, maps)


def _portable(config: PretrainedConfig) -> dict[str, Any]:
    """A part's configuration without the folder it was read from: that is a path of this machine."""
    return {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}


def build_model(tower_folder: Path, language_folder: Path) -> nn.Module:
    """Pretrained tower + warmed-up language model + fresh refinement and connector -> a RegionGPT."""
    tower = open_pretrained(AutoModel, tower_folder)
    language = open_pretrained(LlamaForCausalLM, language_folder)
    tokenizer = open_pretrained(PreTrainedTokenizerFast, language_folder)
    config = rgpt_model.RegionGPTConfig(
        vision_config=_portable(tower.config),
        text_config=_portable(language.config),
        vision_feature_layer=None,
        merge_grid=MERGE_GRID,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        region_token_id=tokenizer.convert_tokens_to_ids("<region>"),
        tie_word_embeddings=True,
    )
    model = rgpt_model.RegionGPTForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    return model


@torch.no_grad()
def calibrate_connector(model: nn.Module, batch: dict[str, Tensor]) -> None:
    """Give the fresh connector's outputs the mean and spread of the word embeddings.

    Slots much louder than words drown the comparison of regions, much quieter ones are not read at all; and
    an offset that all slots share is what an untrained GELU network mostly says.
    """
    core = model.model
    features = core.get_image_features(  # type: ignore[operator, union-attr]
        None, batch["region_masks"], batch["region_index"], batch["vision_features"]
    )
    slots = features.region_features
    centre = slots.mean(0)
    spread = (slots - centre).square().mean().sqrt()
    words = model.get_input_embeddings().weight.square().mean().sqrt()  # type: ignore[operator]
    last = core.connector.linear_2  # type: ignore[union-attr]
    last.weight.mul_(words / spread)  # type: ignore[union-attr, operator]
    last.bias.sub_(centre).mul_(words / spread)  # type: ignore[union-attr, operator]


def batches(
    features: Features,
    writer: Writer,
    seed: int,
    stage: str,
    tasks: Sequence[str] | None = None,
    tokens: int = BATCH_TOKENS,
) -> Iterator[dict[str, Tensor]]:
    """Endless length-grouped batches: ids, labels, tower features, masks, and which slot shows which
    region."""
    rng, generator = random.Random(seed), np.random.default_rng(seed)
    weights = task_weights(STAGE_SHARES[stage], tasks)
    while True:
        k = rng.randrange(len(features.shards))
        shard, maps = features.shards[k], features.maps[k]
        pool: list[tuple[Conversation, int]] = []
        short = stage == "tune" and tasks is None and rng.random() < CHOOSING
        picture = not short or rng.random() >= WITHOUT_PICTURE
        for row in generator.choice(len(shard.seeds), min(len(shard.seeds), 384), replace=False):
            scene = shard.scene(int(row))
            if short:
                made = drill_exchange(scene, rng, 1.0) if len(scene.objects) > 1 else None
                if made is not None:
                    pool.append((writer.write(made[0], [made[1]], picture, rng), int(row)))
            elif len(scene.objects) > 1:
                numbered = number_objects(scene, rng)
                exchanges = conversation(numbered, rng, rng.randint(4, 7), weights)
                pool.append((writer.write(numbered, exchanges, True, rng), int(row)))
        groups = groups_of_like_length(pool, lambda pair: len(pair[0]), tokens, rng)
        for group in groups:
            rows = np.array([row for _, row in group])
            ids, labels = pad_batch([c for c, _ in group], writer.pad)
            index = [i * MAX_OBJECTS + r for i, (c, _) in enumerate(group) for r in c.mentions]
            yield {
                "input_ids": ids,
                "labels": labels,
                "vision_features": maps[torch.from_numpy(rows)].float(),
                "region_masks": torch.from_numpy(region_weights(shard, rows, generator, loose=True)),
                "region_index": torch.tensor(index, dtype=torch.long),
            }


def batch_loss(model: nn.Module, writer: Writer, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean loss over supervised tokens, and the share of them that are the likeliest token.

    Rows are right-padded under causal attention, so no mask is needed; the vocabulary projection runs on
    supervised positions only.
    """
    if not (batch["input_ids"] == writer.image).any():
        core = model.model
        slots = core.get_image_features(  # type: ignore[operator, union-attr]
            None, batch["region_masks"], batch["region_index"], batch["vision_features"]
        ).region_features
        return slots_loss(model, writer, batch["input_ids"], batch["labels"], slots)
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state  # type: ignore[operator, union-attr]
    return supervised_loss(model.lm_head, hidden, batch["labels"])  # type: ignore[arg-type]


def slots_loss(
    model: nn.Module, writer: Writer, ids: Tensor, labels: Tensor, slots: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean loss over supervised tokens and the share of right ones, of rows without a picture before them.

    Args:
        ids, labels: `[B, L]`, right-padded.
        slots: `[R, hidden_size]`, one for each region token in `ids`.
    """
    words = model.get_input_embeddings()(ids)  # type: ignore[operator]
    words = words.masked_scatter((ids == writer.region)[..., None], slots)
    hidden = model.model.language_model(  # type: ignore[operator, union-attr]
        inputs_embeds=words, use_cache=False
    ).last_hidden_state
    return supervised_loss(model.lm_head, hidden, labels)  # type: ignore[arg-type]


def optimizers_for(
    groups: dict[str, list[nn.Parameter]], table: nn.Parameter, lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the language model's matrices, AdamW for all else; the embedding is a table, not a matrix to
    rotate."""
    language = groups.get("language_model", []) + groups.get("lm_head", [])
    matrices = [p for p in language if p.ndim == 2 and p is not table]
    taken = {id(p) for p in matrices}
    rest = [p for parameters in groups.values() for p in parameters if id(p) not in taken]
    result: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    ]
    if matrices:
        result.append(StackedMuon(matrices, lr=lr))
    return result


def train_stage(
    model: nn.Module,
    stage: str,
    features: Features,
    writer: Writer,
    steps: int,
    *,
    lr: float,
    seed: int,
    out: Path | None = None,
    max_seconds: float = math.inf,
    tasks: Sequence[str] | None = None,
    tokens: int = BATCH_TOKENS,
) -> dict[str, float | list[float]]:
    """One stage. Cosine over steps or seconds, whichever is further along; saves to `out` every 250 steps.

    `tasks` restricts the questions (a smoke test asks few kinds),
    `tokens` is the size of a batch.
    """
    groups = apply_stage(model, stage)
    optimizers = optimizers_for(groups, model.get_input_embeddings().weight, lr)  # type: ignore[operator]
    trained = [p for parameters in groups.values() for p in parameters]
    source = batches(features, writer, seed, stage, tasks, tokens)
    if stage == "align":
        calibrate_connector(model, next(source))

    def after(step: int) -> None:
        if out is not None and step % 250 == 249:
            model.save_pretrained(out)  # type: ignore[operator]

    def next_loss(_: float) -> tuple[Tensor, Tensor]:
        return batch_loss(model, writer, next(source))

    result = optimise(f"stage {stage}", steps, max_seconds, lr, trained, optimizers, next_loss, after)
    if out is not None:
        model.save_pretrained(out)  # type: ignore[operator]
    model.eval()
    return result


def optimise(
    name: str,
    steps: int,
    max_seconds: float,
    lr: float,
    trained: Sequence[nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    next_loss: Callable[[float], tuple[Tensor, Tensor]],
    after: Callable[[int], None] = lambda _: None,
) -> dict[str, float | list[float]]:
    """The loop of every phase: a short rise and a cosine over steps or seconds, whichever is further along.

    Args:
        next_loss: share done (0..1) -> (loss, share of right tokens) of a fresh batch.
        after: is told the number of every finished step.

    Returns:
        `seconds`, `steps`, running means `loss` and `right`, and the `curve` of losses.
    """
    curve: list[float] = []
    loss_mean = right_mean = float("nan")
    began, rising = time.time(), min(50, max(1, steps // 10))
    progress = tqdm(range(steps), desc=name, mininterval=5)
    for step in progress:
        done = max(step / steps, (time.time() - began) / max_seconds)
        if done >= 1:
            break
        factor = min(1.0, (step + 1) / rising) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
        loss, right = next_loss(done)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        curve.append(loss.item())
        loss_mean = loss.item() if step == 0 else 0.98 * loss_mean + 0.02 * loss.item()
        right_mean = right.item() if step == 0 else 0.98 * right_mean + 0.02 * right.item()
        if step % 10 == 0:
            progress.set_postfix_str(f"loss {loss_mean:.3f} right {right_mean:.3f}")
        after(step)
    return {
        "seconds": time.time() - began,
        "steps": len(curve),
        "loss": loss_mean,
        "right": right_mean,
        "curve": curve,
    }
