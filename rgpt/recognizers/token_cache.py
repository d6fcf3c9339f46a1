"""SAM tokens on disk, keyed by the pixels they were computed from.

RegionSpot trains with frozen SAM, so tokens can be computed once. They belong to the *augmented* picture:
tokens of the upright one beside a flipped CLIP map would disagree about where things are. The key is
therefore a hash of the very pixels, the regions and the network; a flipped picture simply has another entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rgpt.files import sha256, whole_file
from rgpt.recognizers.region_set import RegionSet


class TokenCache:
    """A folder of `[N, 256]` tensors. `network` names the SAM weights, see `fingerprint`."""

    def __init__(self, folder: Path | str, network: str) -> None:
        self.folder, self.network = Path(folder), network
        self.folder.mkdir(parents=True, exist_ok=True)
        self.computed = 0

    def path(self, image: Image.Image, regions: RegionSet) -> Path:
        """Where the tokens of these regions on this very picture lie."""
        lines = json.dumps([region.to_json() for region in regions.regions])
        picture = f"{image.mode} {image.size}".encode()
        name = sha256([self.network.encode(), picture, image.tobytes(), lines.encode()])
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, image: Image.Image, regions: RegionSet, compute: Callable[[], Tensor]) -> Tensor:
        """The tokens `[N, 256]`, from disk or computed and then kept, in float32."""
        path = self.path(image, regions)
        if path.is_file():
            return load_file(path)["tokens"]
        tokens = compute().detach().float().cpu().contiguous()
        self.computed += 1
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as partial:
            save_file({"tokens": tokens}, partial)
        return tokens


def fingerprint(network: nn.Module) -> str:
    """A short name of a network's weights, from their sums: another checkpoint gets another name."""

    def sums() -> Iterator[bytes]:
        for name, value in sorted(network.state_dict().items()):
            yield f"{name} {tuple(value.shape)} {value.double().sum().item():.12e}".encode()
            yield f"{value.double().square().sum().item():.12e}".encode()

    return sha256(sums())[:16]
