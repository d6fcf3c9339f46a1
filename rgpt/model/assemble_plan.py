"""The plan of an assembly (which weight comes from where), and its one way onto the disk.

Copying goes tensor by tensor, so that memory stays near one shard whatever the model's size; the folder
appears under its name only when it is complete.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import GenerationConfig

import rgpt
from rgpt.errors import InputError
from rgpt.model.assemble_keys import (
    CONNECTOR,
    LANGUAGE,
    TOWER,
    Account,
    Prefixes,
    Reasons,
    account_for,
    check_complete,
)
from rgpt.model.assemble_library import folded
from rgpt.model.assemble_sources import MemoryWeights, Source, TensorInfo, Weights
from rgpt.model.assemble_text import choose_template, end_ids, with_placeholders
from rgpt.model.assemble_tower import empty_model, expected_shapes, fresh_layers, grown_rows
from rgpt.model.assemble_write import Entry, new_model_folder, shard_bytes, torch_dtype, write_shards
from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.modeling_regiongpt import vocabulary_names
from rgpt.model.processing_regiongpt import RegionGPTProcessor

PROVENANCE = "provenance.json"
"""Where the weights of a folder came from: sources, revisions, versions, date, every ignored key."""
_VOCABULARY_STEP = 64  # new rows are added in such steps: matrix kernels like round numbers


@dataclass(frozen=True)
class Options:
    """What all three ways have in common.

    refinement: `residual` starts as the identity, `deconv` is the paper's (untrained); default: by the way.
    merge_grid: image tokens along a side; default: all of the tower's cells.
    region_geometry: add a region's centre and extent to its vector.
    image_size: side of the pictures in pixels, where it is not the tower's own (with a vision tower only).
    vision_layer: index into the tower's `hidden_states`, or `last` for its `last_hidden_state`; default: -2
        where the tower offers its layers, else `last` (with a vision tower only).
    chat_template: name of one of ours; default: told from the source.
    region_mention: what `<regionN>` becomes; default: the processor's.
    dtype: of all weights; `auto` keeps every tensor as its source stores it.
    seed: of the layers that no source has.
    """

    refinement: str | None = None
    merge_grid: int | None = None
    region_geometry: bool = False
    image_size: int | None = None
    vision_layer: int | Literal["last"] | None = None
    chat_template: str | None = None
    image_token: str = "<image>"
    region_token: str = "<region>"
    region_mention: str | None = None
    dtype: str = "auto"
    max_shard_size: str | int = "2GB"
    seed: int = 0


@dataclass
class Part:
    """One source of weights: where its keys go, and which of them are not needed."""

    label: str
    weights: Weights
    prefixes: Prefixes
    reasons: Reasons
    source: Source | None = None
    provides: Sequence[str] = ()  # prefixes of the new model that must come from here
    ignored: dict[str, str] = field(default_factory=dict)  # keys that were left out before
    resized: Sequence[str] = ()  # keys that were interpolated for another picture size
    absent: Sequence[str] = ()  # names of the new model that the class it was saved from has not
    unneeded: Sequence[str] = ()  # those of them that no answer depends on: zeros

    def spare(self, unused: frozenset[str]) -> None:
        """Do without what is absent where it is among `unused`, names in the tower (see `tower_output`)."""
        self.unneeded = [name for name in self.absent if name.removeprefix(TOWER) in unused]


@dataclass
class Plan:
    """Everything about the new model but the copying."""

    way: str
    name: str
    config: RegionGPTConfig
    processor: RegionGPTProcessor
    parts: list[Part]
    zero_bias: bool = False  # the source's connector has no biases; ours has, and they are zero
    ends: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Assembled:
    """What was written."""

    folder: Path
    tensors: int
    bytes: int
    fresh: list[str]
    ignored: int
    largest_shard: int


def placeholder_rows(rows: int, *ids: int) -> int:
    """Vocabulary rows that hold all ids: as many as there are, or more in steps of 64."""
    needed = max(ids) + 1
    return rows if needed <= rows else -(-needed // _VOCABULARY_STEP) * _VOCABULARY_STEP


def make_processor(
    config: RegionGPTConfig, tokenizer: Any, template: str, pictures: Mapping[str, Any], options: Options
) -> RegionGPTProcessor:
    """The processor of a new model; `pictures` is `picture_settings`."""
    settings = {**pictures, "image_token": options.image_token, "region_token": options.region_token}
    mention = options.region_mention
    if mention is None:
        mention = "[{number}] " + options.region_token
    return RegionGPTProcessor.for_model(config, tokenizer, template, region_mention=mention, **settings)


def prepare_text(
    source: Source, tokenizer: Any, rows: int, generation: Mapping[str, Any], options: Options
) -> tuple[str, list[int], dict[str, int]]:
    """(chat template, ids that end an answer, settings of the configuration for the placeholders)."""
    template = choose_template(source, tokenizer, options.chat_template)
    ends = end_ids(tokenizer, template, generation.get("eos_token_id"))
    image_id, region_id = with_placeholders(tokenizer, source.name, options.image_token, options.region_token)
    ids = {"image_token_id": image_id, "region_token_id": region_id}
    return template, ends, {**ids, "vocab_size": placeholder_rows(rows, image_id, region_id)}


def write_model(plan: Plan, out: str | Path, options: Options) -> Assembled:
    """Check every key of every source, then write the folder.

    Raises:
        InputError: a key is missing, surplus or of another shape; `out` exists or cannot be written.
    """
    config = plan.config
    tied = bool(config.tie_word_embeddings)
    model = empty_model(config)
    expected = expected_shapes(model, tied)
    grows = vocabulary_names(model)
    dtype = torch_dtype(options.dtype)
    limit = shard_bytes(options.max_shard_size)

    entries: list[Entry] = []
    accounts: list[Account] = []
    for part in plan.parts:
        account = account_for(
            part.label, part.weights.infos(), part.prefixes, part.reasons, expected, grows, tied
        )
        check_complete(
            part.label, _with_zero_bias(account, plan) | set(part.unneeded), expected, part.provides
        )
        account.ignored |= part.ignored
        accounts.append(account)
        entries += _copies(part, account, expected, dtype, options.seed)
    main_type = _main_type(entries, dtype)
    covered = {entry.name for entry in entries}
    fresh = MemoryWeights(
        {
            name: value.to(main_type)
            for name, value in fresh_layers(config, model, options.seed).items()
            if name not in covered
        }
    )
    if plan.zero_bias:
        for name in ("linear_1.bias", "linear_2.bias"):
            fresh.tensors[CONNECTOR + name].zero_()
    unneeded = sorted({name for part in plan.parts for name in part.unneeded} - covered)
    zeros = MemoryWeights({name: torch.zeros(expected[name], dtype=main_type) for name in unneeded})
    for made in (fresh, zeros):
        entries += [Entry(name, info, partial(made.read, name)) for name, info in made.infos().items()]
    check_complete(plan.name, {entry.name for entry in entries}, expected, [""])

    needed = sum(entry.info.bytes for entry in entries)
    with new_model_folder(Path(out), needed) as folder:
        weight_map = write_shards(folder, entries, limit)
        config.dtype = main_type
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        plan.processor.save_pretrained(folder)
        _generation(plan).save_pretrained(folder)
        _write_provenance(folder, plan, accounts, sorted(fresh.tensors), unneeded, options)
        sizes = [(folder / name).stat().st_size for name in set(weight_map.values())]
    return Assembled(
        Path(out),
        len(entries),
        needed,
        sorted(fresh.tensors),
        sum(len(account.ignored) for account in accounts),
        max(sizes),
    )


def _with_zero_bias(account: Account, plan: Plan) -> set[str]:
    covered = set(account.used)
    if plan.zero_bias:
        covered |= {CONNECTOR + "linear_1.bias", CONNECTOR + "linear_2.bias"}
    return covered


def _copies(
    part: Part,
    account: Account,
    expected: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype | None,
    seed: int,
) -> list[Entry]:
    infos = part.weights.infos()
    entries = []
    for target, key in account.used.items():
        info = infos[key]
        kept = info.dtype if dtype is None or not info.dtype.is_floating_point else dtype
        load = partial(part.weights.read, key)
        if info.shape != expected[target]:  # rows of new tokens
            load = partial(_read_grown, part.weights, key, expected[target][0], seed)
        entries.append(Entry(target, TensorInfo(expected[target], kept), load))
    return entries


def _read_grown(weights: Weights, key: str, rows: int, seed: int) -> torch.Tensor:
    return grown_rows(weights.read(key), rows, seed)


def _main_type(entries: Sequence[Entry], dtype: torch.dtype | None) -> torch.dtype:
    """The type of the language model: what the configuration says, and what new layers are stored in."""
    types = [e.info.dtype for e in entries if e.name.startswith(LANGUAGE) and e.info.dtype.is_floating_point]
    return dtype or (types[0] if types else torch.float32)


def _generation(plan: Plan) -> GenerationConfig:
    """Token ids only: sampling settings of a source may contradict each other, and are the user's choice."""
    tokenizer, config = plan.processor.tokenizer, plan.config
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=plan.ends[0] if len(plan.ends) == 1 else plan.ends or None,
        pad_token_id=pad if pad is not None else (plan.ends[0] if plan.ends else None),
        suppress_tokens=sorted([config.image_token_id, config.region_token_id]),
    )


def _write_provenance(
    folder: Path,
    plan: Plan,
    accounts: Sequence[Account],
    fresh: list[str],
    zeros: list[str],
    options: Options,
) -> None:
    versions = {
        name: metadata.version(name) for name in ("torch", "transformers", "safetensors", "tokenizers")
    }
    sources = []
    for part, account in zip(plan.parts, accounts, strict=True):
        origins = {target: part.weights.origins(key) for target, key in account.used.items()}
        renamed = {name: origins[name] for name, key in account.used.items() if origins[name] != [key]}
        sources.append(
            {
                "part": part.label,
                "id": part.source.name if part.source else part.label,
                "revision": part.source.revision if part.source else None,
                "files": {path.name: path.stat().st_size for path in part.weights.files()},
                "used_keys": len({origin for names in origins.values() for origin in names}),
                "renamed_by_transformers": folded(renamed),
                "resized_keys": list(part.resized),
                "ignored_keys": account.ignored,
            }
        )
    record = {
        "way": plan.way,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"rgpt": rgpt.__version__, **versions},
        "options": vars(options),
        "sources": sources,
        "fresh": fresh,
        "zeros": zeros,
    }
    (folder / PROVENANCE).write_text(
        json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def refuse_existing(out: str | Path) -> None:
    """Raise InputError when `out` holds something: told before anything is downloaded or read."""
    target = Path(out)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise InputError(f"{target} exists already: give a new folder, or remove it first.")
