"""Recognizers on disk and by name.

A folder holds `recognizer.json` (`{"kind": …, "config": {…}}`), `model.safetensors` and, for a transformers
text tower, `tokenizer/`. Names: `clip-crop`, `clip-masked-crop`, `clip-pooled`, `regionspot`, `regionclip`,
`rovit`, each with `@SOURCE`; the source is such a folder, or for the CLIP baselines any CLIP (see
`load_clip`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rgpt.errors import InputError
from rgpt.files import whole_file, write_json
from rgpt.hub import open_pretrained
from rgpt.recognizers.base import RegionRecognizer, check_keys

Network = TypeVar("Network", bound=nn.Module)
KINDS = ("clip", "regionspot", "regionclip", "rovit")
NAMES = ("clip-crop", "clip-masked-crop", "clip-pooled", "regionspot", "regionclip", "rovit")
DEFAULT_CLIP = "openai/clip-vit-base-patch16"
SPOT_HEAD_KEYS = {"depth", "heads", "feedforward", "dropout"}


def build_recognizer(kind: str, config: dict[str, Any], tokenizer: Any = None) -> RegionRecognizer:
    """A recognizer with random weights from a plain config; `save_recognizer` writes such configs.

    Raises:
        InputError: an unknown kind or key.
    """
    from rgpt.recognizers.clip_towers import build_clip

    if kind == "clip":
        from rgpt.recognizers.clip import ClipRecognizer

        check_keys(kind, config, {"clip", "mode", "context", "templates"})
        vision, text, scale = build_clip(config["clip"], tokenizer)
        rest = {k: v for k, v in config.items() if k != "clip"}
        made: RegionRecognizer = ClipRecognizer(vision, text, scale, **rest)
    elif kind == "regionspot":
        made = _build_regionspot(config, tokenizer)
    elif kind == "regionclip":
        from rgpt.recognizers.regionclip import RegionClip, RegionClipConfig

        made = RegionClip(RegionClipConfig.from_dict(config), tokenizer)
    elif kind == "rovit":
        from rgpt.recognizers.rovit import RoVit, RoVitConfig

        made = RoVit(RoVitConfig.from_dict(config), tokenizer)
    else:
        raise InputError.about("recognizer", f"one of {', '.join(KINDS)}", repr(kind))
    made.kind, made.config = kind, config  # type: ignore[assignment]
    return made.eval()


def _build_regionspot(config: dict[str, Any], tokenizer: Any) -> RegionRecognizer:
    from transformers import SamModel

    from rgpt.recognizers.clip_towers import build_clip
    from rgpt.recognizers.regionspot import RegionSpot, RegionSpotHead
    from rgpt.recognizers.sam import SamTokens, sam_config

    check_keys("regionspot", config, {"sam", "clip", "head", "templates", "dense_masks"})
    check_keys("regionspot head", config.get("head", {}), SPOT_HEAD_KEYS)
    sam = SamTokens(SamModel(sam_config(config["sam"])), config.get("dense_masks", False))
    vision, text, scale = build_clip(config["clip"], tokenizer)
    head = RegionSpotHead(vision.width, vision.dim, sam.width, **config.get("head", {}))
    return RegionSpot(sam, vision, text, head, scale, config.get("templates", "openai81"))


def regionspot_from_pretrained(
    sam_name: str, clip_name: str, head: dict[str, Any] | None = None, templates: Any = "openai81"
) -> RegionRecognizer:
    """Pretrained SAM and CLIP with a fresh head, ready to train.

    Raises:
        InputError: one of them cannot be found.
    """
    from rgpt.recognizers.clip_towers import load_clip, plain_config
    from rgpt.recognizers.regionspot import RegionSpot, RegionSpotHead
    from rgpt.recognizers.sam import SamTokens, load_sam

    try:
        model = load_sam(sam_name)
    except (OSError, ValueError) as error:
        raise InputError.about(
            f"SAM {sam_name!r}",
            "a transformers SamModel (folder or hub id)",
            " ".join(str(error).split())[:160],
            "check the name and that the weights are on this machine",
        ) from error
    vision, text, scale, clip_config = load_clip(clip_name)
    sam = SamTokens(model)
    made = RegionSpot(
        sam,
        vision,
        text,
        RegionSpotHead(vision.width, vision.dim, sam.width, **(head or {})),
        scale,
        templates,
    )
    made.kind = "regionspot"
    made.config = {
        "sam": plain_config(model.config),
        "clip": clip_config,
        "head": head or {},
        "templates": templates,
    }
    return made.eval()


def save_recognizer(recognizer: RegionRecognizer, folder: Path | str) -> None:
    """Write config, weights and tokenizer; every file appears whole or not at all."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Cloned: SAM ties two names to one tensor, and safetensors refuses shared memory.
    weights: dict[str, Tensor] = {
        k: v.detach().clone().contiguous() for k, v in recognizer.state_dict().items()
    }
    tokenizer: Any = getattr(recognizer.text, "tokenizer", None)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder / "tokenizer")
    with whole_file(folder / "model.safetensors") as partial:
        save_file(weights, partial, metadata={"format": "pt"})
    description = {"kind": recognizer.kind, "config": recognizer.config}
    write_json(folder / "recognizer.json", description)  # last: a folder with it is complete


def load_recognizer(folder: Path | str, **changes: Any) -> RegionRecognizer:
    """Read what `save_recognizer` wrote; `changes` replace entries of the config (a CLIP's `mode`).

    Raises:
        InputError: not such a folder, or weights that do not fit their config.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / "recognizer.json").is_file():
        raise InputError.about(
            f"recognizer {str(folder)!r}",
            "a folder with recognizer.json",
            "none here",
            "train one (python -m rgpt.train.recognizers) or check the spelling",
        )
    try:
        description = json.loads((folder / "recognizer.json").read_text(encoding="utf-8"))
        tokenizer = None
        if (folder / "tokenizer").is_dir():
            from transformers import AutoTokenizer

            tokenizer = open_pretrained(AutoTokenizer, folder / "tokenizer")
        made = build_recognizer(description["kind"], {**description["config"], **changes}, tokenizer)
        made.load_state_dict(load_file(folder / "model.safetensors"))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError.about(
            f"recognizer {str(folder)!r}",
            "a config and weights that fit it",
            f"{type(error).__name__}: {' '.join(str(error).split())}"[:200],
            "save it again",
        ) from error
    return made.eval()


def open_recognizer(name: str, device: str | torch.device = "cpu") -> RegionRecognizer:
    """The recognizer of a name (see the module) or of a folder.

    Raises:
        InputError: an unknown name, or nothing trained where it is looked for.
    """
    base, _, source = name.partition("@")
    if base not in NAMES:
        if source or not Path(name).is_dir():
            raise InputError.about(
                f"recognizer {name!r}",
                f"a folder, or one of {', '.join(NAMES)} followed by @SOURCE",
                "neither",
                "write for example regionspot@runs/recognizers/regionspot",
            )
        return on_device(load_recognizer(name), device)
    if not base.startswith("clip-"):
        made = load_recognizer(source or Path("runs/recognizers") / base)
        if made.kind != base:
            raise InputError.about(
                f"recognizer {name!r}", f"a {base}", f"a {made.kind}", "name the other one"
            )
        return on_device(made, device)
    mode = base.removeprefix("clip-")
    default = Path("runs/recognizers/clip")
    if not source and default.is_dir():
        source = str(default)
    if source and (Path(source) / "recognizer.json").is_file():
        if (kind := kind_of(source)) != "clip":
            raise InputError.about(
                f"recognizer {name!r}", "a clip folder, or any CLIP", f"a {kind}", "name the other one"
            )
        return on_device(load_recognizer(source, mode=mode), device)
    from rgpt.recognizers.clip import ClipRecognizer
    from rgpt.recognizers.clip_towers import load_clip

    vision, text, scale, config = load_clip(source or DEFAULT_CLIP)
    clip = ClipRecognizer(vision, text, scale, mode)
    clip.kind, clip.config = "clip", {"clip": config, "mode": mode}
    return on_device(clip.eval(), device)


def kind_of(folder: Path | str) -> str:
    """What `recognizer.json` says; "clip" where it cannot be read, so that loading tells what is wrong."""
    try:
        return str(json.loads((Path(folder) / "recognizer.json").read_text(encoding="utf-8"))["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return "clip"


def on_device(network: Network, device: str | torch.device) -> Network:
    """The network there. Raises InputError when torch has no such device."""
    try:
        return network.to(device)
    except (RuntimeError, AssertionError) as error:  # no such device, or none in this build of torch
        raise InputError.about(
            f"device {str(device)!r}",
            "one that torch can use here",
            " ".join(str(error).split())[:120],
            "use cpu, or repair the driver",
        ) from error
