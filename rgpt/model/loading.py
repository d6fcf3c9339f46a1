"""Open a RegionGPT: an embedded model, a folder, or a hub id.

A folder that names its base (`rgpt.model.bases`) is opened like any other: its base first, then what was
trained on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rgpt.errors import InputError
from rgpt.hub import open_pretrained
from rgpt.model.about import About, read_about
from rgpt.model.bases import PACKAGED, apply_layer, lineage, read_json
from rgpt.model.calibration import Calibration, read_calibration
from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.device import pretrained_options, spread_over
from rgpt.model.fitting import check_counts, check_shapes, held_shapes
from rgpt.model.modeling_regiongpt import RegionGPTForConditionalGeneration
from rgpt.model.processing_regiongpt import RegionGPTProcessor
from rgpt.model.quantization import keep_whole

TINY = PACKAGED["tiny"]
"""The folder of the embedded default model."""


def load(
    name_or_path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    bits: int | None = None,
    base: str | Path | None = None,
    **options: Any,
) -> tuple[RegionGPTForConditionalGeneration, RegionGPTProcessor]:
    """(model in eval mode, its processor). `model.about` says what it has seen, `model.calibration` by task
    how its shares become sureness.

    Args:
        name_or_path: an embedded model, a folder, or a hub id. The folder may be a run's adapter or delta:
            what was trained is then merged into its base in memory, and the processor is the base's.
        dtype: `float32`, `bfloat16`, `float16` or `auto` (as saved); default: float32 on the CPU, else as
            saved.
        device: default: the first GPU, or the CPU; `auto` spreads the model over all GPUs.
        bits: 8 or 4: linear layers of tower and language model are quantised by bitsandbytes while loading;
            connector, refinement and head stay whole.
        base: where the base of an adapter or delta is, instead of the place that it names.
        options: for `from_pretrained`, e.g. `attn_implementation`, `quantization_config`, `device_map`.

    Raises:
        InputError: when there is no such model, it is not a RegionGPT, or its files are incomplete or do
            not belong together, or torch has no such device.
    """
    if bits is not None and options.get("quantization_config") is not None:
        raise InputError("load takes bits or quantization_config, not both.")
    own, moved_to = pretrained_options(device, dtype, bits)
    path, layers = lineage(name_or_path, base)
    options = {**own, **options}
    if layers and options.get("quantization_config") is not None:
        raise InputError(
            f"{str(layers[-1])!r} cannot be loaded quantised, for what was trained is added to whole "
            "weights: make a plain checkpoint of it with rgpt merge-lora and load that."
        )
    if options.get("quantization_config") is not None:
        options["quantization_config"] = keep_whole(options["quantization_config"])
        options.setdefault("device_map", {"": moved_to})
        options["dtype"] = dtype or "auto"
    spread = options.pop("device_map", None) if layers else None  # what was trained is added first
    if spread is not None or "device_map" in options:
        moved_to = None
    held = held_shapes(path)
    check_counts(path, read_json(Path(path) / "config.json"), held)
    config = _open(RegionGPTConfig, path)
    processor = _open(RegionGPTProcessor, path)
    processor.check_model(config)
    check_shapes(path, config, held)
    attention = options.get("attn_implementation")
    tower = config.vision_config
    convolutional = not hasattr(tower, "num_attention_heads") or getattr(tower, "backbone_config", None)
    if isinstance(attention, str) and convolutional:
        # Convolutions have no attention to choose, and transformers refuses the choice for them.
        options["attn_implementation"] = {"text_config": attention}
    model, report = _open(
        RegionGPTForConditionalGeneration,
        path,
        config=config,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below, with the others
        use_safetensors=True,
        **options,
    )
    for problem, what in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "has the unknown"),
        ("mismatched_keys", "has a wrong shape for"),
    ):
        if report[problem]:
            keys = sorted(key if isinstance(key, str) else key[0] for key in report[problem])
            raise InputError(
                f"the checkpoint {path!r} {what} {len(keys)} weights, first {keys[0]}: save it again."
            )
    for layer in layers:  # before the model moves: a sum on the CPU is the same on every machine's GPU
        apply_layer(model, layer)
        if (file := Path(layer) / "generation_config.json").is_file():
            model.generation_config.update(**read_json(file))
    if moved_to is not None:
        model = model.to(moved_to)
        _align(model)
    elif spread is not None:
        model = spread_over(model, spread)
    model.about, model.calibration = _said(path, layers)
    return model.eval(), processor


def said_of(name_or_path: str | Path) -> tuple[About, dict[str, Calibration]]:
    """What a model's files say beside its weights, which are not read. Raises InputError as `load`."""
    return _said(*lineage(name_or_path))


def _said(path: str, layers: list[Path]) -> tuple[About, dict[str, Calibration]]:
    # What was trained last says it best; a layer that says nothing has seen what its base has. How sure it is
    # of that is its own.
    folders: list[str | Path] = [*reversed(layers), path]
    said = map(read_about, folders)
    about = next((about for about in said if about != About()), About())
    return about, read_calibration(folders[0])


def open_config(name_or_path: str | Path) -> RegionGPTConfig:
    """The configuration alone. Raises InputError as `load`."""
    return _open(RegionGPTConfig, lineage(name_or_path)[0])


def open_processor(name_or_path: str | Path) -> RegionGPTProcessor:
    """The processor alone. Raises InputError as `load`."""
    return _open(RegionGPTProcessor, lineage(name_or_path)[0])


def _align(model: torch.nn.Module) -> None:
    """Copy CPU weights that lie at odd addresses of a memory-mapped file.

    Matrix kernels sum in another order there: the last bit of the logits would depend on the file's layout.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()


def _open(kind: Any, path: str, **options: Any) -> Any:
    """`open_pretrained`, and of a configuration whether it is a RegionGPT's."""
    if kind is RegionGPTConfig:
        found = read_json(Path(path) / "config.json")
        if found.get("model_type") != RegionGPTConfig.model_type:
            raise InputError(
                f"the model {path!r} is of type {found.get('model_type')!r}, not 'regiongpt': "
                "give a folder that a RegionGPT was saved to."
            )
    return open_pretrained(kind, path, **options)
