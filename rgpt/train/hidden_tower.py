"""The frozen tower, kept out of what is trained.

Both stages freeze the tower [P]. Hidden inside the model it still computes and moves with it, but is no part
of its parameters: optimisers and ZeRO never see it, so ranks that have no pictures need not gather its
weights, checkpoints do not repeat it, and no bug can change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn


class HiddenTower(nn.Module):
    """Stands where the tower stood; `tower` is not a submodule."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        tower.eval().requires_grad_(False)
        self._hidden = (tower,)  # a tuple: torch registers modules, not tuples

    @property
    def tower(self) -> nn.Module:
        return self._hidden[0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Past torch's own __call__, and so past the hooks that ZeRO-3 hangs on every module of the model: it
        # would record a call that ranks without pictures do not make, and stop the run.
        return self.tower(*args, **kwargs)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The tower's own: its dtype is asked for here. The model's parameters are found by another way."""
        return self.tower.parameters(recurse)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HiddenTower:
        self.tower._apply(fn)  # follows the model to another device or dtype
        return self


def hide_tower(model: nn.Module) -> HiddenTower:
    """Put a RegionGPT's tower out of sight; returns what stands in its place."""
    core: Any = model.model
    if not isinstance(core.vision_tower, HiddenTower):
        core.vision_tower = HiddenTower(core.vision_tower)
    return core.vision_tower


def tower_state(hidden: HiddenTower) -> dict[str, Tensor]:
    """The tower's tensors under the names they have in a whole checkpoint."""
    return {f"model.vision_tower.{name}": value for name, value in hidden.tower.state_dict().items()}
