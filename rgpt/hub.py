"""Where a model's files are: a folder, or a hub id, whose files are fetched once or taken from the cache.

Every door that opens a model by name goes through here. What is a path never goes to the hub, and what the
hub cannot give is said after one try: `from_pretrained` of a name that is not there tries for a minute.
"""

from __future__ import annotations

import re
from pathlib import Path

from rgpt.errors import InputError

TEXT_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*(@[\w./-]+)?", re.ASCII)
"""`owner/name`, or `owner/name@revision`."""


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
