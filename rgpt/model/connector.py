"""The connector: visual vectors into the language model's embedding space."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.activations import ACT2FN


def scaled_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that a fresh model starts with outputs as large as its inputs."""
    layer = nn.Linear(inputs, outputs)
    layer.init_std = inputs**-0.5  # type: ignore[assignment]
    return layer


class Connector(nn.Module):
    """Linear, activation, Linear: `[..., C]` -> `[..., D]`, for image and region vectors ([P] fig. 2).

    With `blocks`, the first layer reads four cells at once, normalised: `[..., 4C]` -> `[..., D]` [A].
    """

    def __init__(
        self, vision_size: int, text_size: int, activation: str = "gelu", *, blocks: bool = False
    ) -> None:
        super().__init__()
        inputs = 4 * vision_size if blocks else vision_size
        self.norm = nn.LayerNorm(inputs) if blocks else nn.Identity()
        self.linear_1 = scaled_linear(inputs, text_size)
        self.activation = ACT2FN[activation]
        self.linear_2 = scaled_linear(text_size, text_size)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.linear_2(self.activation(self.linear_1(self.norm(vectors))))
