"""Between the two stages of `tiny`: learning to say *which* region fits, on region vectors computed once.

"Which of [1] <region>, [2] <region> … is red?" needs a circuit of its own: compare every slot with the
description, then say the number that stands before the slot. In a mixture of all tasks it did not form in an
hour of stage 2; alone, beginning with two candidates that differ in one attribute, it forms in minutes
(docs/decisions.md). Only the language model learns here, so refinement and connector run once for every scene
and a step costs what a step of the language model costs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from rgpt.model.conversation import Conversation
from rgpt.train.stages import apply_stage
from rgpt.train.tiny.choosing_questions import drill_exchange
from rgpt.train.tiny.language import BATCH_TOKENS, Writer, groups_of_like_length, pad_batch
from rgpt.train.tiny.scene_store import MAX_OBJECTS, region_weights
from rgpt.train.tiny.tune import Features, optimise, optimizers_for, slots_loss

ROWS_A_SCENE = 3
SCENES = 3072


@torch.no_grad()
def region_vectors(model: nn.Module, features: Features, scenes: int, seed: int) -> list[Tensor]:
    """What the connector says of every region, twice: as drawn and as a hand would draw it.

    Returns:
        For each shard (as many as hold `scenes` scenes) float32 `[2, n * 6, hidden_size]`.
    """
    result: list[Tensor] = []
    total = sum(len(s.seeds) for s in features.shards)
    progress = tqdm(total=min(scenes, total), desc="region vectors", unit="scene", mininterval=5)
    for k, (shard, maps) in enumerate(zip(features.shards, features.maps, strict=True)):
        if progress.n >= scenes:
            break
        rng = np.random.default_rng((seed, k))
        pieces = []
        for start in range(0, len(shard.seeds), 32):
            rows = np.arange(start, min(start + 32, len(shard.seeds)))
            weights = np.concatenate([region_weights(shard, rows, rng, loose) for loose in (False, True)], 1)
            slots = model.model.get_image_features(  # type: ignore[operator, union-attr]
                None,
                torch.from_numpy(weights),
                torch.arange(weights.shape[0] * weights.shape[1]),
                maps[torch.from_numpy(rows)].float(),
            ).region_features
            pieces.append(slots.view(len(rows), 2, MAX_OBJECTS, -1).transpose(0, 1).flatten(1, 2))
            progress.update(len(rows))
        result.append(torch.cat(pieces, 1))
    progress.close()
    return result


def drill_batches(
    features: Features, vectors: list[Tensor], writer: Writer, seed: int, tokens: int, state: dict[str, float]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches: ids `[B, L]`, labels `[B, L]`, slots `[R, hidden_size]`. `state["done"]` is read anew
    for every pool of questions."""
    rng = random.Random(seed)
    while True:
        k = rng.randrange(len(vectors))
        shard = features.shards[k]
        pool: list[tuple[Conversation, int]] = []
        for row in rng.sample(range(len(shard.seeds)), min(len(shard.seeds), 150)):
            scene = shard.scene(row)
            for _ in range(ROWS_A_SCENE if len(scene.objects) > 1 else 0):
                if made := drill_exchange(scene, rng, state["done"]):
                    pool.append((writer.write(made[0], [made[1]], False, rng), row))
        for group in groups_of_like_length(pool, lambda pair: len(pair[0]), tokens, rng):
            ids, labels = pad_batch([c for c, _ in group], writer.pad)
            slots = [
                vectors[k][rng.randrange(2), row * MAX_OBJECTS + r] for c, row in group for r in c.mentions
            ]
            yield ids, labels, torch.stack(slots)


def drill(
    model: nn.Module,
    features: Features,
    writer: Writer,
    steps: int,
    *,
    lr: float,
    seed: int,
    out: Path | None = None,
    max_seconds: float = math.inf,
    scenes: int = SCENES,
    tokens: int = BATCH_TOKENS,
) -> dict[str, float | list[float]]:
    """Train the language model alone to choose among regions; the same return value as `train_stage`."""
    model.eval()
    vectors = region_vectors(model, features, scenes, seed)
    groups = apply_stage(model, "tune")
    trained = list(model.model.language_model.parameters())  # type: ignore[operator, union-attr]
    table = model.get_input_embeddings().weight  # type: ignore[operator]
    for parameter in (p for parameters in groups.values() for p in parameters):
        parameter.requires_grad_(any(parameter is p for p in trained))
    optimizers = optimizers_for({"language_model": trained}, table, lr)
    state = {"done": 0.0}
    source = drill_batches(features, vectors, writer, seed, tokens, state)

    def next_loss(done: float) -> tuple[Tensor, Tensor]:
        state["done"] = done
        return slots_loss(model, writer, *next(source))

    result = optimise("choosing", steps, max_seconds, lr, trained, optimizers, next_loss)
    if out is not None:
        model.save_pretrained(out)  # type: ignore[operator]
    model.eval()
    return result
