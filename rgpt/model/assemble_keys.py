"""Which weight of a source becomes which weight of a RegionGPT: a table of prefixes, and an account of every
key.

Names inside a part are kept; only the prefix changes, because a RegionGPT holds the very modules that
transformers builds for the tower and the language model. What transformers itself called them in the past is
the business of `assemble_library`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rgpt.errors import InputError
from rgpt.model.assemble_sources import TensorInfo

TOWER, LANGUAGE, HEAD = "model.vision_tower.", "model.language_model.", "lm_head."
CONNECTOR, REFINEMENT, PROJECTOR = "model.connector.", "model.refinement.", "model.region_projector."
Prefixes = Sequence[tuple[str, str]]
Reasons = Sequence[tuple[str, str]]

VISION_TOWER: Prefixes = [("", TOWER)]
LLAVA: Prefixes = [
    ("model.language_model.", LANGUAGE),
    ("model.vision_tower.", TOWER),
    ("model.multi_modal_projector.", CONNECTOR),
    ("lm_head.", HEAD),
]
SPATIALRGPT_REGIONS: Prefixes = [
    # Sequential(deconv, norm, GELU, deconv, GELU) [A]
    ("feature_refinement_module.0.", REFINEMENT + "deconv_1."),
    ("feature_refinement_module.1.", REFINEMENT + "norm."),
    ("feature_refinement_module.3.", REFINEMENT + "deconv_2."),
    ("rgb_projector.", PROJECTOR),
]
SPATIALRGPT_CONNECTOR: Mapping[str, Prefixes] = {
    "mlp2x_gelu": [("layers.0.", CONNECTOR + "linear_1."), ("layers.2.", CONNECTOR + "linear_2.")],
    # Sequential(2x2 blocks, norm, Linear, GELU, Linear) [A]
    "mlp_downsample": [
        ("layers.1.", CONNECTOR + "norm."),
        ("layers.2.", CONNECTOR + "linear_1."),
        ("layers.4.", CONNECTOR + "linear_2."),
    ],
}

COMPUTED: Reasons = [
    (r"(^|\.)position_ids$", "a buffer of indices that is computed"),
    (r"rotary_emb\.inv_freq$", "a buffer of frequencies that is computed"),
]
DEPTH: Reasons = [
    (r"^depth_projector\.", "regions of a depth map; RegionGPT has no depth input"),
]


@dataclass
class Account:
    """Every key of one source, used or ignored with the reason."""

    used: dict[str, str] = field(default_factory=dict)
    """Target name -> key of the source."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Key of the source -> why it is not needed."""


def account_for(
    label: str,
    infos: Mapping[str, TensorInfo],
    prefixes: Prefixes,
    reasons: Reasons,
    expected: Mapping[str, tuple[int, ...]],
    vocabulary: Sequence[str],
    tied_head: bool = False,
) -> Account:
    """Match every key of a source.

    Args:
        label: the source's name in messages.
        expected: shape of every weight of the new model.
        vocabulary: weights of the new model that may have more rows than the source's (`vocabulary_names`).
        tied_head: whether the head is the embedding; a second copy in the source is then ignored.

    Raises:
        InputError: a key has no place, two keys have the same place, or a shape does not fit.
    """
    account, unknown = Account(), []
    for key, info in infos.items():
        reason = _reason(key, reasons)
        target = None if reason else _target(key, prefixes, expected)
        if target is None and reason is None and tied_head and _target(key, prefixes, {"lm_head.weight": ()}):
            reason = "tied to the embeddings, of which it is a copy"
        if reason is not None:
            account.ignored[key] = reason
        elif target is None:
            unknown.append(key)
        elif target in account.used:
            raise InputError(
                f"{label} holds both {account.used[target]} and {key}, which are the same weight: "
                "give a checkpoint that was saved once."
            )
        else:
            _check_shape(label, key, info, target, expected[target], target in vocabulary)
            account.used[target] = key
    if unknown:
        raise InputError(
            f"{label} has {len(unknown)} weights that a RegionGPT of its configuration has no place for, "
            f"first {unknown[0]}: its config.json and its weights do not belong together."
        )
    return account


def check_complete(
    label: str, covered: set[str], expected: Mapping[str, tuple[int, ...]], parts: Sequence[str]
) -> None:
    """Raises InputError when a weight of `parts` (prefixes of target names) comes from nowhere."""
    missing = [name for name in expected if name.startswith(tuple(parts)) and name not in covered]
    if missing:
        raise InputError(
            f"{label} lacks {len(missing)} weights, first the one that becomes {missing[0]}: "
            "give a whole checkpoint."
        )


def _reason(key: str, reasons: Reasons) -> str | None:
    return next((why for pattern, why in reasons if re.search(pattern, key)), None)


def _target(key: str, prefixes: Prefixes, expected: Mapping[str, tuple[int, ...]]) -> str | None:
    for prefix, target_prefix in prefixes:
        if not key.startswith(prefix):
            continue
        target = target_prefix + key.removeprefix(prefix)
        if target in expected:
            return target
    return None


def _check_shape(
    label: str, key: str, info: TensorInfo, target: str, shape: tuple[int, ...], grows: bool
) -> None:
    fits = info.shape == shape
    if grows:
        fits = info.shape[1:] == shape[1:] and info.shape[0] <= shape[0]
    if not fits:
        raise InputError(
            f"{label}: {key} has the shape {list(info.shape)} but its configuration says {list(shape)}: "
            "config.json and weights do not belong together."
        )
