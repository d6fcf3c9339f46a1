"""The device that a person names, checked before any weight is read, and what `from_pretrained` is told."""

from __future__ import annotations

from typing import Any

import torch

from rgpt.errors import InputError
from rgpt.model.quantization import quantization_config
from rgpt.placement import DTYPES, EVERYWHERE


def device_of(name: str | torch.device | None = None) -> str:
    """The device of a name: without one the first GPU, or the CPU; `auto` stays.

    Raises:
        InputError: torch cannot compute on such a device here.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == EVERYWHERE:
        return EVERYWHERE
    try:
        device = torch.device(name)
        if device.type == "meta" or torch.empty(1, device=device).device.type != device.type:
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:100].rstrip(".")
        here = ["cpu"]
        here += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise InputError(
            f"the device {str(name)!r} cannot be used here ({reason}): give one of {', '.join(here)}."
        ) from error
    return str(device)


def pretrained_options(
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    bits: int | None = None,
) -> tuple[dict[str, Any], str | None]:
    """(what `from_pretrained` takes, where the model is to be moved then; None: it lies where it belongs).

    Args:
        device: as of `device_of`; `auto` spreads the model over all GPUs (`device_map` of the library).
        dtype: of the weights; default: float32 on the CPU, else as saved.
        bits: 8 or 4: quantised by bitsandbytes while loading.

    Raises:
        InputError: there is no such device, type or number of bits.
    """
    where = device_of(device)
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise InputError.about("dtype", f"one of {', '.join(DTYPES)}", repr(dtype))
    whole = torch.device(where).type == "cpu" if where != EVERYWHERE else not torch.cuda.is_available()
    options: dict[str, Any] = {"dtype": dtype or (torch.float32 if whole and bits is None else "auto")}
    if bits is not None:
        # bitsandbytes places the weights while it makes them small; they must not be moved as a whole later.
        options["quantization_config"] = quantization_config(bits)
    if where == EVERYWHERE or bits is not None:
        options["device_map"] = EVERYWHERE if where == EVERYWHERE else {"": where}
        return options, None
    return options, where


def spread_over(model: Any, device_map: Any) -> Any:
    """A model that was loaded whole, over the devices of `device_map` (`auto`: all GPUs, evenly)."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    if device_map == EVERYWHERE:
        kept = sorted(model._no_split_modules)
        room = get_balanced_memory(model, no_split_module_classes=kept)
        device_map = infer_auto_device_map(model, room, no_split_module_classes=kept)
    return dispatch_model(model, device_map)
