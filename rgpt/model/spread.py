"""A model over several devices, by the library's map. Needs accelerate: the extras `train` and `quantize`."""

from __future__ import annotations

from typing import Any

from rgpt.errors import InputError
from rgpt.placement import EVERYWHERE


def spread_over(model: Any, device_map: Any) -> Any:
    """A model that was loaded whole, over the devices of `device_map` (`auto`: all GPUs, evenly).

    Raises InputError without accelerate.
    """
    try:
        from accelerate import dispatch_model, infer_auto_device_map
        from accelerate.utils import get_balanced_memory
    except ImportError as error:
        raise InputError.about(
            "--device auto", "the package accelerate", "none", "run scripts/setup.sh train"
        ) from error
    if device_map == EVERYWHERE:
        kept = sorted(model._no_split_modules)
        room = get_balanced_memory(model, no_split_module_classes=kept)
        device_map = infer_auto_device_map(model, room, no_split_module_classes=kept)
    return dispatch_model(model, device_map)
