"""What each recognizer minimises. A recipe is a module: `Batch` in, named losses out; `save` writes the
result.

`model` of a config goes to the recipe of the same name. A recipe starts from the folder in the config's
`init`, or builds a fresh recognizer of its kind from `model.config` (tiny runs), or from pretrained parts
(named in each class).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rgpt.errors import InputError
from rgpt.recognizers.clip import ClipRecognizer
from rgpt.recognizers.clip_towers import unit
from rgpt.recognizers.cropped_positions import random_crops
from rgpt.recognizers.focal_contrast import focal_contrastive_loss
from rgpt.recognizers.frozen import unit_gain_
from rgpt.recognizers.geometry import Geometry
from rgpt.recognizers.loading import regionspot_from_pretrained
from rgpt.recognizers.region_set import RegionSet, pad_sets
from rgpt.recognizers.regionspot import RegionSpot
from rgpt.recognizers.rovit import RoVit
from rgpt.recognizers.token_cache import TokenCache, fingerprint
from rgpt.recognizers.vocabulary import multi_hot
from rgpt.train.recognizers.config import RunConfig
from rgpt.train.recognizers.data import Batch
from rgpt.train.recognizers.detection_recipes import RegionClipTransferRecipe, RoVitDetectorRecipe
from rgpt.train.recognizers.proposals_recipe import ProposalsRecipe
from rgpt.train.recognizers.recipe import Recipe, captions_of, fits, gathered, start
from rgpt.train.recognizers.regionclip_recipe import RegionClipRecipe
from rgpt.train.recognizers.sam_recipe import SamRecipe


class ClipRecipe(Recipe):
    """A small CLIP from nothing on captioned pictures: symmetric InfoNCE where all captions that are true of
    a picture are equally right.

    Only for tiny runs (baseline, teacher of RegionCLIP, map of RegionSpot). `model`: `config` of kind clip.
    """

    keys = ("config",)

    def __init__(self, config: RunConfig) -> None:
        made = start("clip", config.model, config.init)
        if not isinstance(made, ClipRecognizer):
            raise InputError("recipe clip: give model.config or init of kind clip.")
        super().__init__(made)
        made.tower.requires_grad_(True)

    def train(self, mode: bool = True) -> ClipRecipe:
        super().train(mode)
        self.recognizer.vision.module.train(mode)  # type: ignore[union-attr]  # unfrozen here alone
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        recognizer: Any = self.recognizer
        tower, captions = recognizer.tower, captions_of(batch)
        pixels = [
            Geometry.squash(e.image.height, e.image.width, tower.image_size).pixels(
                e.image, tower.mean, tower.std
            )
            for e in batch.examples
        ]
        images = unit(tower.embed(torch.stack(pixels).to(recognizer.device)))
        texts = unit(recognizer.text.encode(captions)).to(images)
        logits = gathered(images) @ gathered(texts).T / 0.07
        true = fits(batch).to(logits)
        return {
            "loss_clip": (
                F.cross_entropy(logits, true / true.sum(1, keepdim=True))
                + F.cross_entropy(logits.T, true.T / true.T.sum(1, keepdim=True))
            )
            / 2
        }


class RegionSpotRecipe(Recipe):
    """Focal alignment of every region with the source's whole vocabulary; SAM and CLIP frozen.

    `model`: `sam` and `clip` (pretrained parts; `tower:tiny` is the tower that the shipped chat model sees
    with) with optional `head` and `templates`, or `config`; `cache`: a folder for SAM's tokens; `unit_gain`:
    redraw a *random* SAM so that its tokens carry a signal (tests).
    """

    keys = ("config", "sam", "clip", "head", "templates", "cache", "unit_gain")

    def __init__(self, config: RunConfig) -> None:
        model = config.model
        made = start("regionspot", model, config.init)
        if made is None:
            made = regionspot_from_pretrained(
                model["sam"],
                clip_source(model["clip"]),
                model.get("head"),
                model.get("templates", "openai81"),
            )
        assert isinstance(made, RegionSpot)
        super().__init__(made)
        if model.get("unit_gain") and not config.init:
            unit_gain_(made.sam)
            unit_gain_(made.vision)
        self.cache = None
        if model.get("cache"):
            network = fingerprint(made.prompter) + (" dense masks" if made.prompter.dense_masks else "")
            self.cache = TokenCache(model["cache"], network)

    def tokens(self, batch: Batch) -> list[Tensor]:
        """SAM tokens `[N_b, 256]` of the very pictures of the batch, augmentation included."""
        spot: RegionSpot = self.recognizer  # type: ignore[assignment]

        def compute(image: Any, regions: RegionSet) -> Tensor:
            with torch.no_grad():
                return spot.prompter(spot.prompter.encode_images([image])[0], regions).tokens

        found = []
        for example in batch.examples:
            if not len(example.regions):
                found.append(torch.zeros(0, spot.prompter.width, device=spot.device))
            elif self.cache is None:
                found.append(compute(example.image, example.regions))
            else:
                pair = example.image, example.regions
                found.append(self.cache.get(*pair, lambda pair=pair: compute(*pair)).to(spot.device))  # type: ignore[misc]
        return found

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        spot: RegionSpot = self.recognizer  # type: ignore[assignment]
        vocabulary = self.vocabulary(batch)
        targets, _ = pad_sets([multi_hot(vocabulary, e.names) for e in batch.examples])
        tokens, valid = pad_sets(self.tokens(batch))
        if not valid.any():
            return {"loss_align": sum(p.sum() for p in spot.head.parameters()) * 0.0}  # type: ignore[dict-item]
        rows = valid.any(1)  # a picture without regions has nothing to attend with
        memory = spot.clip_tokens([e.image for e in batch.examples])
        embedded = spot.head(tokens[rows], valid[rows], memory[rows])
        bank = self.bank(batch).weights
        return {"loss_align": spot.loss(embedded, valid[rows], bank, targets.to(bank)[rows])}


class RoVitRecipe(Recipe):
    """Focal contrastive pretraining with cropped positions, from captioned pictures; a picture is compared
    with the texts of all processes.

    `model`: `config` of kind rovit; `gamma`; `sampler` of crops (null: whole positions); `bias`: initial
    logit bias, learned (null, the published loss: none); `scale`: initial 1 / temperature, learned;
    `tokenizer`: of a text tower in `config.text` (a folder or hub id), without which texts are sums of word
    vectors; `train_text`: that tower trains, too.
    """

    keys = ("config", "gamma", "sampler", "bias", "scale", "tokenizer", "train_text")

    def __init__(self, config: RunConfig) -> None:
        made = start("rovit", config.model, config.init)
        if not isinstance(made, RoVit):
            raise InputError("recipe rovit: give model.config or init of kind rovit.")
        super().__init__(made)
        model = config.model
        self.gamma, self.sampler = float(model.get("gamma", 1.0)), model.get("sampler", "resized_crop")
        self.temperature = nn.Parameter(torch.tensor(float(math.log(model.get("scale", 10.0)))))
        bias = model.get("bias")
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        self.train_text = bool(model.get("train_text"))
        made.text.requires_grad_(self.train_text)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        rovit: RoVit = self.recognizer  # type: ignore[assignment]
        side, captions = rovit.settings.image_size, captions_of(batch)
        pixels = [
            Geometry.squash(e.image.height, e.image.width, side).pixels(e.image, (0, 0, 0), (1, 1, 1))
            for e in batch.examples
        ]
        crops = None if self.sampler is None else random_crops(len(captions), self.sampler).to(rovit.device)
        images = rovit.tower.embed(torch.stack(pixels).to(rovit.device), crops)
        texts = rovit.text.embed(captions) if self.train_text else rovit.text.encode(captions)
        # Against the texts of all processes: the batch that counts is the whole step's.
        images, texts = gathered(unit(images)), gathered(unit(texts).to(images))
        logits = self.temperature.exp() * images @ texts.T
        if self.logit_bias is not None:
            logits = logits + self.logit_bias
        return {"loss_focal": focal_contrastive_loss(logits, fits(batch).to(logits.device), self.gamma)}


def clip_source(name: str) -> str:
    """`tower:tiny` with its folder, which recognizers, a floor below the chat model, do not know."""
    from rgpt.model.loading import TINY

    return f"tower:{TINY}" if name == "tower:tiny" else name


def open_recipe(config: RunConfig) -> Recipe | SamRecipe | ProposalsRecipe:
    """The recipe of a run. Raises InputError when `model` lacks what it needs."""
    known: dict[str, Any] = {
        "clip": ClipRecipe,
        "sam": SamRecipe,
        "regionspot": RegionSpotRecipe,
        "regionclip": RegionClipRecipe,
        "regionclip-transfer": RegionClipTransferRecipe,
        "rovit": RoVitRecipe,
        "rovit-detector": RoVitDetectorRecipe,
        "proposals": ProposalsRecipe,
    }
    torch.manual_seed(config.seed)
    recipe = known[config.recipe]
    keys = getattr(recipe, "keys", ())  # without any, the recipe checks for itself
    if unknown := sorted(set(config.model) - set(keys)) if keys else []:
        raise InputError.about(
            f"model of recipe {config.recipe}",
            f"keys {', '.join(keys)}",
            f"also {', '.join(unknown)}",
            "remove or correct them",
        )
    try:
        return recipe(config)
    except KeyError as error:
        raise InputError.about(
            f"model of recipe {config.recipe}",
            f"the key {error.args[0]}",
            f"keys {sorted(config.model)}",
            "add it",
        ) from error
