"""Where a model's files are: a folder, or a hub id, whose files are fetched once or taken from the cache.

Every door that opens a model by name goes through here. What is a path never goes to the hub, and what the
hub cannot give is said after one try: `from_pretrained` of a name that is not there tries for a minute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rgpt.errors import InputError

TEXT_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*(@[\w./-]+)?", re.ASCII)
"""`owner/name`, or `owner/name@revision`."""

ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""What may compute attention. Any other name is that of a repository, whose code transformers would fetch."""
_CHOSEN = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def open_pretrained(kind: Any, name: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained` of a folder or hub id, with none of its code.

    A checkpoint is a stranger's: libraries raise nearly anything for one that is broken, and would run what
    it brings or names.

    Args:
        kind: a class of transformers, or one of ours that is like it.
        options: for `from_pretrained`.

    Raises:
        InputError: there is no such folder, or it cannot be opened, in one sentence.
    """
    folder = model_folder(name)
    check_attention(options.get("attn_implementation"))
    try:
        for file in folder.glob("*config.json"):
            for chosen in _attention_in(json.loads(file.read_text(encoding="utf-8"))):
                check_attention(chosen)
        return kind.from_pretrained(str(folder), trust_remote_code=False, **options)
    except InputError:
        raise
    except BaseException as error:
        # The tokenizers' library panics, which is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise broken(folder, error) from error


def broken(folder: str | Path, error: BaseException) -> InputError:
    """The sentence for files that a library did not take."""
    reason = " ".join(str(error).split())[:300].rstrip(".:")
    if not isinstance(error, OSError | ValueError | ImportError):
        reason = f"{type(error).__name__}: {reason}"
    return InputError(
        f"the model {str(folder)!r} cannot be opened ({reason}): copy it again, or give another."
    )


def check_attention(chosen: Any) -> None:
    """Raises InputError unless every implementation named is one of `ATTENTION`, or none is."""
    for name in chosen.values() if isinstance(chosen, dict) else [chosen]:
        if name is not None and name not in ATTENTION:
            raise InputError.about("attn_implementation", f"one of {', '.join(ATTENTION)}", repr(name)[:80])


def _attention_in(value: Any) -> Iterator[Any]:
    """What a configuration, or a part of it, says about attention."""
    if isinstance(value, dict):
        yield from (value[key] for key in _CHOSEN if key in value)
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _attention_in(part)


def model_folder(name: str | Path, what: str = "the folder of a checkpoint or a hub id owner/name") -> Path:
    """The folder with a model's files.

    Args:
        name: a folder, or a hub id. Where a folder of the owner's name is here, the name is a path that leads
            nowhere, unless the hub's cache has it.
        what: what may be given, for the sentence that refuses it.

    Weights come as safetensors; where a repository has none, its `pytorch_model*.bin` are taken.

    Raises:
        InputError: there is no such folder, or the hub has no such repository or cannot be reached.
    """
    path, name = Path(name), str(name)
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{name} is a file: give the folder of the checkpoint that it belongs to.")
    missing = f"there is no folder {name}: give {what}."
    if HUB_ID.fullmatch(name) is None:
        raise InputError(missing)
    from huggingface_hub import snapshot_download

    here = path.parent.is_dir()
    repository, _, revision = name.partition("@")

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision or None,
                allow_patterns=list(patterns),
                local_files_only=here,
            )
        )

    try:
        folder = fetch(*TEXT_FILES, "*.safetensors")
        if not any(folder.rglob("*.safetensors")):
            fetch("pytorch_model*.bin")
    except (OSError, ValueError, RuntimeError) as error:
        if here:
            raise InputError(missing) from error
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{name} is no folder, and the hub gave no such checkpoint ({reason}): "
            "check the name, the connection, and that you may read it."
        ) from error
    return folder
