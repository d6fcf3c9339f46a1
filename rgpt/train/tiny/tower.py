"""The vision tower of `tiny`: its shape, and its pretraining on drawn scenes before it is frozen.

The tower is a stock `transformers` DPT hybrid encoder: a convolutional stem (HGNetV2) in front of a few
transformer layers with learned positions. A plain ViT of this size needs many times the steps to tell shapes
apart (docs/decisions.md).

Pretraining is contrastive, region to words [D]: a region's pooled feature is matched with the word of each
of its attributes against all other words of that attribute, and with whole phrases against the other phrases
of the batch. Colour alone tells most phrases of a batch apart, so without the word-wise part shape would get
almost no gradient. Two more objectives keep what a contrastive loss throws away: where the region is, and
what is centred in each cell.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModel, DPTConfig, HGNetV2Config

from rgpt.data.scenes import COLOURS, SHAPES, SIDE, SIZES, TEXTURES
from rgpt.model.feature_map import tower_features
from rgpt.model.projection import pool_regions
from rgpt.train.tiny.scene_store import Shard, pixel_values, read_shards, region_weights

TOWER_GRID = 12
HIDDEN = 128
ATTRIBUTE_COUNTS = (len(SHAPES), len(COLOURS), len(TEXTURES), len(SIZES))
WORD_WEIGHTS = (2.0, 0.5, 1.0, 0.5)
"""Shape is the whole difficulty, colour is free: so is the gradient shared."""


def tower_config() -> DPTConfig:
    """96 px -> 12 x 12 tokens of 128 channels; 0.67 M parameters."""
    stem = HGNetV2Config(
        stem_channels=[3, 16, 16],
        stem_strides=[2, 1, 1, 1, 1],
        embedding_size=16,
        depths=[1, 1, 1],
        hidden_sizes=[64, 128, 128],
        stage_in_channels=[16, 64, 128],
        stage_mid_channels=[32, 64, 64],
        stage_out_channels=[64, 128, 128],
        stage_num_blocks=[1, 1, 1],
        stage_downsample=[True, True, False],
        stage_downsample_strides=[2, 2, 2],
        stage_light_block=[False, False, False],
        stage_kernel_size=[3, 3, 3],
        stage_numb_of_layers=[3, 3, 3],
        out_features=["stage1", "stage2", "stage3"],
    )
    return DPTConfig(
        is_hybrid=True,
        backbone_config=stem,
        backbone_featmap_shape=[1, 128, TOWER_GRID, TOWER_GRID],
        neck_ignore_stages=[0, 1],
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * HIDDEN,
        hidden_act="gelu",
        image_size=96,
        patch_size=8,
    )


def tower_map(tower: nn.Module, pixels: Tensor) -> Tensor:
    """`[B, 3, 96, 96]` -> the tower's last hidden state as `[B, C, 12, 12]`, class token dropped."""
    return tower_features(tower, pixels, layer=None, strategy="default", grid=TOWER_GRID)


class PretrainingHeads(nn.Module):
    """What stands on the tower during pretraining only: word embeddings, projections, position and cell
    heads."""

    def __init__(self) -> None:
        super().__init__()
        self.region = nn.ModuleList(nn.Linear(HIDDEN, 64) for _ in ATTRIBUTE_COUNTS)
        self.words = nn.ParameterList(nn.Parameter(torch.randn(n, 64)) for n in ATTRIBUTE_COUNTS)
        self.phrase = nn.Linear(HIDDEN, 64)
        self.phrase_words = nn.ParameterList(nn.Parameter(torch.randn(n, 64)) for n in ATTRIBUTE_COUNTS)
        self.place = nn.Linear(HIDDEN, 3)
        self.cells = nn.ModuleList(nn.Linear(HIDDEN, n + 1) for n in ATTRIBUTE_COUNTS[:3])
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def word_logits(self, regions: Tensor) -> list[Tensor]:
        """`[N, C]` -> one `[N, words]` an attribute: scaled cosines with every word of it."""
        scale = self.log_scale.exp().clamp(max=50.0)
        return [
            scale * F.normalize(project(regions), dim=-1) @ F.normalize(words, dim=-1).T
            for project, words in zip(self.region, self.words, strict=True)
        ]

    def phrase_loss(self, regions: Tensor, attributes: Tensor) -> Tensor:
        """Contrast with the batch's whole phrases; equal phrases share the target instead of being each
        other's negative."""
        z = F.normalize(self.phrase(regions), dim=-1)
        text = sum(words[attributes[:, i]] for i, words in enumerate(self.phrase_words))
        logits = self.log_scale.exp().clamp(max=50.0) * z @ F.normalize(text, dim=-1).T
        same = (attributes[:, None] == attributes[None]).all(-1).float()
        target = same / same.sum(-1, keepdim=True)
        return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def _batch(shard: Shard, rows: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
    weights = torch.from_numpy(region_weights(shard, rows, rng))
    width, height = shard.sizes[rows, 0], shard.sizes[rows, 1]
    padding = np.stack([(SIDE - width) / 2, (SIDE - height) / 2], -1)[:, None]
    places = shard.places[rows]
    return {
        "pixels": torch.from_numpy(pixel_values(shard.images[rows])),
        "weights": F.avg_pool2d(weights, 4),
        "attributes": torch.from_numpy(shard.attributes[rows].astype(np.int64)),
        "centres": torch.from_numpy((places[..., :2] + padding) / SIDE).float(),
        "radius": torch.from_numpy(places[..., 2] / 16.0),
        "present": torch.arange(6)[None] < torch.from_numpy(shard.counts[rows].astype(np.int64))[:, None],
    }


def _losses(features: Tensor, heads: PretrainingHeads, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Total loss, and the share of right words an attribute `[4]`."""
    present = batch["present"]
    regions = pool_regions(features, batch["weights"])[present]
    attributes = batch["attributes"][present]
    total = 0.3 * heads.phrase_loss(regions, attributes)
    right = []
    for i, logits in enumerate(heads.word_logits(regions)):
        total = total + WORD_WEIGHTS[i] * F.cross_entropy(logits, attributes[:, i])
        right.append((logits.argmax(-1) == attributes[:, i]).float().mean())
    where = torch.cat([batch["centres"], batch["radius"][..., None]], -1)[present]
    total = total + 8.0 * F.mse_loss(heads.place(regions), where)
    centre = (batch["centres"] * TOWER_GRID).long().clamp(0, TOWER_GRID - 1)
    cell = (centre[..., 1] * TOWER_GRID + centre[..., 0])[present]
    picture = torch.arange(len(present))[:, None].expand_as(present)[present]
    flat = features.flatten(2).transpose(1, 2)  # [B, 144, C]
    for i, head in enumerate(heads.cells):
        target = torch.zeros(flat.shape[:2], dtype=torch.long)
        target[picture, cell] = attributes[:, i] + 1
        weight = torch.ones(ATTRIBUTE_COUNTS[i] + 1)
        weight[0] = 0.05
        total = total + 0.4 * F.cross_entropy(head(flat).flatten(0, 1), target.flatten(), weight=weight)
    return total, torch.stack(right)


def pretrain_tower(
    store: Path,
    out: Path,
    steps: int,
    *,
    batch_size: int = 64,
    lr: float = 2e-3,
    seed: int = 0,
    max_seconds: float = math.inf,
) -> dict[str, float]:
    """Pretrain the tower on a scene store and save it to `out` (safetensors, `AutoModel.from_pretrained`
    reads it).

    The schedule follows steps or seconds, whichever is further along, so that a time limit still ends with a
    low rate.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tower = AutoModel.from_config(tower_config()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter in tower.pooler.parameters():  # not on the path: it would never get a gradient
        parameter.requires_grad_(False)
    heads = PretrainingHeads()
    parameters = [p for p in (*tower.parameters(), *heads.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    shards: list[Shard] = []
    known = 0
    # A tenth of a short run: a smoke test of 60 steps would never reach its rate in 100.
    rising = min(100, max(1, steps // 10))
    right = torch.zeros(4)
    began = time.time()
    progress = tqdm(range(steps), desc="tower", mininterval=5)
    for step in progress:
        if step % 50 == 0 and len(list(store.glob("*.npz"))) > known:
            shards = list(read_shards(store)) if known == 0 else shards + list(read_shards(store))[known:]
            known = len(shards)
        done = max(step / steps, (time.time() - began) / max_seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = (
                lr * min(1.0, (step + 1) / rising) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
            )
        shard = shards[rng.integers(len(shards))]
        rows = rng.choice(len(shard.seeds), min(batch_size, len(shard.seeds)), replace=False)
        batch = _batch(shard, rows, rng)
        features = tower_map(tower, batch["pixels"].to(memory_format=torch.channels_last))
        loss, share = _losses(features, heads, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        right = 0.98 * right + 0.02 * share.detach() if step else share.detach()
        if step % 20 == 0:
            progress.set_postfix_str(
                f"loss {loss.item():.3f} shape {right[0]:.3f} colour {right[1]:.3f} "
                f"texture {right[2]:.3f} size {right[3]:.3f}"
            )
        if step % 300 == 299:
            tower.save_pretrained(out)
    tower.save_pretrained(out)
    names = ("shape", "colour", "texture", "size")
    return {
        "seconds": time.time() - began,
        "steps": step + 1,
        **{n: float(v) for n, v in zip(names, right, strict=True)},
    }
