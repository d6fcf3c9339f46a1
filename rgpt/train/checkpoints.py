"""Checkpoints, whole or not at all.

A checkpoint is written into a hidden folder; when every process has finished, a list of its files is written,
everything is flushed to the disk, and the folder takes its name in one step. What a kill leaves behind has no
name that anybody looks for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from rgpt.errors import InputError
from rgpt.files import flush

MANIFEST = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def staging(folder: Path, step: int) -> Path:
    """The hidden folder a checkpoint is written into."""
    return folder / f".partial-{step}"


def publish(partial: Path, target: Path, **facts: object) -> None:
    """Give a finished checkpoint its name: list, flush, rename."""
    files = {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
    for name in files:
        flush(partial / name)
    manifest = partial / MANIFEST
    manifest.write_text(json.dumps({**facts, "files": files}, indent=1) + "\n", encoding="utf-8")
    flush(manifest)
    if target.exists():  # left by an earlier attempt at the same step
        shutil.rmtree(target)
    os.replace(partial, target)
    flush(target.parent)


def complete(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first; one whose files are missing or cut short is not among them."""
    found = []
    for path in folder.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and _is_whole(path):
            found.append((int(match.group(1)), path))
    return [path for _, path in sorted(found)]


def newest(folder: Path, processes: int) -> Path | None:
    """The newest whole checkpoint. Raises InputError when another number of processes wrote its shards."""
    checkpoints = complete(folder)
    if not checkpoints:
        return None
    facts = json.loads((checkpoints[-1] / MANIFEST).read_text(encoding="utf-8"))
    if facts.get("sharded") and facts.get("processes") != processes:
        raise InputError.about(
            f"--resume from {checkpoints[-1]}",
            f"{facts.get('processes')} processes, which wrote its shards",
            str(processes),
            "start as many",
        )
    return checkpoints[-1]


def tidy(folder: Path, keep: int) -> None:
    """Remove half-written checkpoints and all but the newest `keep` whole ones."""
    for path in [*folder.glob(".partial-*"), *folder.glob(".old-*")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in complete(folder)[:-keep]:
        old = path.with_name(f".old-{path.name}")
        os.replace(path, old)  # a kill while it is being removed must not leave half of it under its name
        shutil.rmtree(old, ignore_errors=True)


def _is_whole(path: Path) -> bool:
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((path / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False
