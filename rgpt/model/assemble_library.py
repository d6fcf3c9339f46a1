"""A checkpoint under the names it was published with, read under the names its transformers model has today.

transformers renames, joins and splits weights while it loads them, and writes the old names when it saves:
even a folder of `save_pretrained` does not hold the names of the model that was saved. The rules are the
library's own (`get_model_conversion_mapping`, which `from_pretrained` follows); here they are followed
without building the model, so that weights can still be copied one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from rgpt.errors import InputError
from rgpt.model.assemble_sources import TensorInfo, Weights
from rgpt.model.feature_map import build_tower


def on_meta(build: Callable[[], PreTrainedModel], label: str) -> PreTrainedModel:
    """A model without numbers, in eval mode. Raises InputError when its configuration makes none."""
    try:
        with torch.device("meta"):
            return build().eval()
    except InputError:
        raise
    except Exception as error:  # every model has its own way to refuse a configuration
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"the config.json of {label} makes no model ({reason}).") from error


def published_class(config: Any, label: str) -> PreTrainedModel | None:
    """The model, on the meta device, that a checkpoint of `config` was saved from; `None` when it is unknown.

    It is larger than the tower where that was published inside a CLIP, or below a classifier.
    """
    names = getattr(config, "architectures", None) or []
    kind = getattr(transformers, names[0], None) if names else None
    if kind is None and config.model_type == "timm_wrapper":  # timm writes no class, and saves the classifier
        kind = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)] if config.num_labels else None
    if kind is not None and issubclass(kind, PreTrainedModel):
        return on_meta(lambda: kind(config), label)
    return on_meta(lambda: build_tower(config), label)


class _Names:
    """What the library makes of the names of a checkpoint for one model."""

    def __init__(self, model: PreTrainedModel) -> None:
        transforms = get_model_conversion_mapping(model)
        self.model, self.own = model, model.state_dict()
        self.renamings = [item for item in transforms if isinstance(item, WeightRenaming)]
        self.converters = [item for item in transforms if isinstance(item, WeightConverter)]

    def find(self, key: str) -> tuple[str, str | None] | None:
        """(name in the model, pattern of the converter that makes it), or `None`: the model has no such."""
        prefix = self.model.base_model_prefix
        name, pattern = rename_source_key(key, self.renamings, self.converters, prefix, self.own)
        if name not in self.own and key in self.own:
            name, pattern = key, None  # as the library does: a rule that should not have applied
        return (name, pattern) if name in self.own else None

    def find_inside(self, key: str, part: _Names) -> tuple[str, None] | None:
        """The name in a part of this model of what the whole knows under a name of its own (AltCLIP)."""
        name, pattern = self.find(key) or ("", "")
        if pattern is None:
            for dot in re.finditer(r"\.", name):
                module = self.model.get_submodule(name[: dot.start()])
                if name[dot.end() :] in part.own and module.state_dict().keys() == part.own.keys():
                    return name[dot.end() :], None
        return None

    def converter(self, pattern: str) -> WeightConverter:
        return deepcopy(next(item for item in self.converters if pattern in item.source_patterns))


@dataclass
class _Recipe:
    """How weights of the model come from keys of the checkpoint: as they are, or through a converter."""

    first: str  # the name that the library files the converter under
    keys: list[tuple[str | None, str]] = field(default_factory=list)  # pattern of the converter, key


class LibraryWeights:
    """The weights of a checkpoint under the names of `model`.

    A key that `model` has no place for keeps its own name, except where it is known why: then it is in
    `ignored`, with the reason.

    Args:
        weights: as published.
        model: on the meta device: what the checkpoint is loaded into.
        whole: on the meta device: what it was saved from, when that is larger.

    Raises:
        InputError: two keys are the same weight, or weights that belong together do not fit together.
    """

    def __init__(
        self, weights: Weights, model: PreTrainedModel, label: str, whole: PreTrainedModel | None = None
    ) -> None:
        self.weights, self.label, self.ignored = weights, label, {}  # type: ignore[var-annotated]
        self._names = _Names(model)
        self._recipes: dict[str, _Recipe] = {}
        self._infos: dict[str, TensorInfo] = {}
        around = _Names(whole) if whole is not None else None
        self.absent = self._absent(around)
        unneeded = sorted(model._keys_to_ignore_on_load_unexpected or ())
        groups: dict[str, _Recipe] = {}
        for key in sorted(weights.infos(), key=dot_natural_key):
            found = self._names.find(key)
            if found is None and around is not None:
                found = around.find_inside(key, self._names)
            if found is not None and found[1] is not None:
                groups.setdefault(found[0], _Recipe(found[0])).keys.append((found[1], key))
            elif found is not None:
                self._add(found[0], _Recipe(found[0], [(None, key)]), weights.infos()[key])
            elif any(re.search(pattern, key) for pattern in unneeded):
                self.ignored[key] = f"transformers' {type(model).__name__} computes it"
            elif around is not None and around.find(key) is not None:
                self.ignored[key] = f"belongs to the {type(whole).__name__} around the tower"
            else:
                self._add(key, _Recipe(key, [(None, key)]), weights.infos()[key])
        for recipe in groups.values():
            for name, tensor in self._make(recipe, self._empty).items():
                self._add(name, recipe, TensorInfo(tuple(tensor.shape), tensor.dtype))

    def _absent(self, around: _Names | None) -> set[str]:
        """Weights of the model that what was saved has not: a classifier is published without its pooler."""
        if around is None:
            return set()
        found = (self._names.find(key) or around.find_inside(key, self._names) for key in around.own)
        return set(self._names.own) - {each[0] for each in found if each is not None}

    def _add(self, name: str, recipe: _Recipe, info: TensorInfo) -> None:
        if name in self._recipes:
            raise InputError(
                f"{self.label} holds both {self.origins(name)[0]} and {recipe.keys[0][1]}, which are the "
                "same weight: give a checkpoint that was saved once."
            )
        self._recipes[name], self._infos[name] = recipe, info

    def _empty(self, key: str) -> Tensor:
        info = self.weights.infos()[key]
        return torch.empty(info.shape, dtype=info.dtype, device="meta")

    def _make(self, recipe: _Recipe, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Run the library's converter; with tensors on the meta device it tells names and shapes."""
        model = self._names.model
        converter = self._names.converter(recipe.keys[0][0] or "")
        try:
            for pattern, key in recipe.keys:
                converter.add_tensor(recipe.first, key, pattern or "", read(key))  # type: ignore[arg-type]
            made = converter.convert(recipe.first, model=model, config=model.config)
        except Exception as error:  # an operation of the library meets shapes it was not made for
            raise InputError(
                f"{self.label}: {len(recipe.keys)} weights, first {recipe.keys[0][1]}, do not become "
                f"{recipe.first} ({str(error).strip().splitlines()[0]}): give a whole checkpoint."
            ) from error
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def infos(self) -> dict[str, TensorInfo]:
        return self._infos

    def read(self, key: str) -> Tensor:
        recipe = self._recipes[key]
        if recipe.keys[0][0] is None:
            return self.weights.read(recipe.keys[0][1])
        return self._make(recipe, self.weights.read)[key]

    def origins(self, key: str) -> list[str]:
        return [origin for _, origin in self._recipes[key].keys]

    def files(self) -> list[Path]:
        return self.weights.files()


ANTIALIASED = ("clip_vision_model", "siglip_vision_model")
"""Towers whose publishers shrink positions with antialiasing; DINOv2's own code does not."""


def resized_tower(config: Any, weights: Weights, size: int, label: str) -> tuple[Any, Weights, list[str]]:
    """A tower for pictures of another size: (configuration, weights, names of those that were interpolated).

    Weights with one row a patch, such as position embeddings, are interpolated by the tower's own method,
    the one it would run for every picture of that size (`interpolate_pos_encoding` of transformers,
    `set_input_size` of timm). Where they shrink, CLIP's and SigLIP's are antialiased, as open_clip and timm
    do with them and transformers does not. A tower without such weights reads any size as it is.

    Args:
        config: of the tower as published.
        weights: under the tower's names.
        size: side of the new pictures, in pixels.

    Raises:
        InputError: the tower has weights that follow the picture's size, but no method to interpolate them.
    """
    tower = on_meta(lambda: build_tower(config), label)
    other = _for_size(config, tower, size)
    shapes = {name: tuple(value.shape) for name, value in tower.state_dict().items()}
    wanted = {
        name: tuple(value.shape)
        for name, value in on_meta(lambda: build_tower(other), label).state_dict().items()
    }
    changed = [name for name in wanted if wanted[name] != shapes.get(name)]
    for name in changed:
        if not hasattr(_timm(tower), "set_input_size") and _owner(tower, name) is None:
            raise InputError(
                f"the tower of {label} ({config.model_type}) cannot read pictures of {size} pixels, since it "
                f"has no way to interpolate its {name}: leave --image-size out, or choose another tower."
            )
        info = weights.infos().get(name)
        if info is not None and info.shape != shapes.get(name):
            raise InputError(
                f"{label}: {name} has the shape {list(info.shape)} but its configuration says "
                f"{list(shapes.get(name, ()))}: config.json and weights do not belong together."
            )

    def interpolate(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fresh = on_meta(lambda: build_tower(config), label)
        for name, value in values.items():
            module, _, leaf = name.rpartition(".")
            setattr(fresh.get_submodule(module), leaf, nn.Parameter(value.float(), requires_grad=False))
        if hasattr(_timm(fresh), "set_input_size"):
            _timm(fresh).set_input_size(img_size=(size, size))
            made = fresh.state_dict()
            return {name: made[name] for name in values}
        results = {}
        for name in values:
            rows, channels = wanted[name][-2:]
            owner = _owner(fresh, name)
            assert owner is not None
            with _Antialiased() if config.model_type in ANTIALIASED else nullcontext():
                made = owner.interpolate_pos_encoding(torch.empty(1, rows, channels), size, size)
            results[name] = made.reshape(wanted[name])
        return results

    return other, ResizedWeights(weights, {name: wanted[name] for name in changed}, interpolate), changed


class _Antialiased(TorchFunctionMode):
    """Within it, interpolation that shrinks weighs every value."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is nn.functional.interpolate and args[0].shape[-1] > kwargs["size"][-1]:
            kwargs = {**kwargs, "antialias": True}
        return function(*args, **kwargs)


def _timm(tower: PreTrainedModel) -> Any:
    return getattr(tower, "timm_model", None)


def _for_size(config: Any, tower: PreTrainedModel, size: int) -> Any:
    other = deepcopy(config)
    own = getattr(config, "image_size", None)
    if own is not None:
        other.image_size = type(own)([size, size]) if isinstance(own, (list, tuple)) else size
    if hasattr(_timm(tower), "set_input_size"):
        other.model_args = {**(config.model_args or {}), "img_size": size}
    return other


def _owner(tower: PreTrainedModel, name: str) -> Any:
    """The nearest module around a weight that can interpolate it."""
    while "." in name:
        name = name.rpartition(".")[0]
        module = tower.get_submodule(name)
        if hasattr(module, "interpolate_pos_encoding"):
            return module
    return None


@dataclass
class ResizedWeights:
    """Weights of which some are interpolated to another shape while they are read."""

    weights: Weights
    shapes: dict[str, tuple[int, ...]]
    interpolate: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

    def infos(self) -> dict[str, TensorInfo]:
        return {
            key: TensorInfo(self.shapes.get(key, info.shape), info.dtype)
            for key, info in self.weights.infos().items()
        }

    @torch.no_grad()
    def read(self, key: str) -> Tensor:
        if key not in self.shapes:
            return self.weights.read(key)
        made = self.interpolate({name: self.weights.read(name) for name in self.shapes})
        return made[key].to(self.weights.infos()[key].dtype)

    def origins(self, key: str) -> list[str]:
        return self.weights.origins(key)

    def files(self) -> list[Path]:
        return self.weights.files()


def folded(names: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """`{new name: old names}` with the numbers of layers written as `*`: one line for all layers."""
    lines: dict[str, dict[str, None]] = {}
    for name, origins in names.items():
        lines.setdefault(_without_numbers(name), {}).update(dict.fromkeys(map(_without_numbers, origins)))
    return {name: list(origins) for name, origins in lines.items()}


def _without_numbers(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
