"""LoRA and QLoRA of stage 2: adapters on the language model, refinement and connector trained whole.

Everything that was trained is in one adapter folder (`modules_to_save`), which `rgpt.model.load` opens as it
is; `merge_adapter` makes a plain checkpoint of it that answers equally.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rgpt.errors import InputError
from rgpt.files import whole_folder
from rgpt.model import calibration, load
from rgpt.model.about import write_about
from rgpt.model.bases import ADAPTER_CONFIG, BASE_FILE, is_layer, read_json
from rgpt.model.loading import open_config
from rgpt.train.arguments import Lora
from rgpt.train.endings import not_finite
from rgpt.train.stages import PARTS, STAGES


def add_adapters(model: nn.Module, settings: Lora) -> nn.Module:
    """A PEFT model: low-rank updates on every linear layer of the language model, connector and refinement as
    trainable copies, everything else frozen."""
    from peft import LoraConfig, get_peft_model

    core: Any = model.model
    ends = {
        name.rsplit(".", 1)[-1]
        for name, module in core.language_model.named_modules()
        if isinstance(module, nn.Linear)
    }
    whole = [
        name
        for name in STAGES["align"].trains
        if (part := getattr(core, name, None)) is not None and any(True for _ in part.parameters())
    ]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf".*\blanguage_model\..*\.({'|'.join(sorted(ends))})",
        modules_to_save=whole,
        bias="none",
    )
    model.name_or_path = None  # type: ignore[assignment]
    adapted = get_peft_model(model, config)
    # base.json names the base, as seen from the adapter; PEFT would write a path of this machine.
    adapted.peft_config["default"].base_model_name_or_path = None
    return adapted


def quantization(precision: str) -> Any:
    """4-bit weights for the frozen language model (QLoRA). Raises InputError without bitsandbytes."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError.about(
            "method qlora", "the library bitsandbytes", "none", "pip install bitsandbytes, or use lora"
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        llm_int8_skip_modules=[part for part in PARTS if part != "language_model"],
    )


def merge_adapter(adapter: Path, out: Path, base: str | None = None, dtype: str = "float32") -> Path:
    """An adapter or delta folder and its base -> a plain checkpoint in the new folder `out`, whole or not at
    all.

    The sum of base and update is rounded to `dtype`. In float32 the checkpoint answers as the adapted model
    does; in bfloat16, with 8 bits a weight, what an update adds can be lost, and 1 of 30 greedy answers was
    measured to change. `auto`, the base's own type, halves the size of most.

    Args:
        base: the checkpoint it was trained on; default: the one it names.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`.

    Raises:
        InputError: when one of them is missing or they do not fit, or `out` exists.
    """
    if not is_layer(adapter):
        raise InputError.about(
            "adapter", f"a folder with {BASE_FILE} or {ADAPTER_CONFIG}", repr(str(adapter))
        )
    if out.exists():
        raise InputError.about("--out", "a new folder", f"{str(out)!r}, which exists", "choose another")
    if base is None and not (adapter / BASE_FILE).is_file():
        base = read_json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path")  # another program's adapter
        if not base:
            raise InputError("the adapter does not say which checkpoint it belongs to: give --base.")
    # Summed in float32 in any case, and rounded once.
    stored = open_config(base or adapter).dtype if dtype == "auto" else getattr(torch, dtype)
    merged, processor = load(adapter, device="cpu", dtype=torch.float32, base=base)
    merged = merged.to(stored or torch.float32)
    if (name := not_finite(merged.named_parameters())) is not None:
        raise InputError.about(
            f"the merged {name} in {stored or torch.float32}",
            "finite numbers",
            "NaN or infinity",
            "look at the adapter and its base; float16 ends at 65,504",
        )
    with whole_folder(out) as partial:
        merged.save_pretrained(partial)
        write_about(partial, merged.about)
        processor.save_pretrained(partial)
        for name in ("run.yaml", "versions.json", "inputs.json", calibration.FILE):
            if (adapter / name).is_file():
                shutil.copyfile(adapter / name, partial / name)
    return out
