"""Checkpoints, whole or not at all.

A checkpoint is written into a hidden folder; when every process has finished, a list of its files with their
hashes is written, everything is flushed to the disk, and the folder takes its name in one step. What a kill
leaves behind has no name that anybody looks for.
"""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rgpt.errors import InputError
from rgpt.files import flush, remove_folder, replace_folder
from rgpt.train.inputs import digest_of

MANIFEST = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def staging(folder: Path, step: int) -> Path:
    """The hidden folder a checkpoint is written into."""
    return folder / f".partial-{step}"


def publish(partial: Path, target: Path, **facts: object) -> None:
    """Give a finished checkpoint its name: list, flush, rename."""
    paths = [path for path in sorted(partial.rglob("*")) if path.is_file()]
    with ThreadPoolExecutor(4) as threads:
        files = dict(
            zip([str(p.relative_to(partial)) for p in paths], threads.map(digest_of, paths), strict=True)
        )
    for path in paths:
        flush(path)
    manifest = partial / MANIFEST
    manifest.write_text(json.dumps({**facts, "files": files}, indent=1) + "\n", encoding="utf-8")
    flush(manifest)
    replace_folder(partial, target)
    flush(target.parent)


def complete(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first; one whose files are missing or cut short is not among them."""
    steps = []
    for path in folder.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and _fault(path, hashes=False) is None:
            steps.append((int(match.group(1)), path))
    return [path for _, path in sorted(steps)]


def newest(folder: Path, processes: int) -> Path | None:
    """The newest whole checkpoint, by the hashes of its files; those passed over are said.

    Raises InputError when another number of processes wrote its shards.
    """
    named = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    for path in sorted(named, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        fault = _fault(path, hashes=True)
        if fault is not None:
            print(f"{path} is passed over: {fault}", flush=True)
            continue
        facts = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if facts.get("sharded") and facts.get("processes") != processes:
            raise InputError.about(
                f"--resume from {path}",
                f"{facts.get('processes')} processes, as wrote it",
                str(processes),
                "start as many",
            )
        return path
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove what kills have left half written or half removed."""
    for path in [*folder.glob(".partial-*"), *folder.glob(".old-*")]:
        shutil.rmtree(path, ignore_errors=True)


def tidy(folder: Path, keep: int) -> None:
    """Remove half-written checkpoints and all but the newest `keep` whole ones."""
    remove_leftovers(folder)
    for path in complete(folder)[:-keep]:
        remove_folder(path)


def _fault(path: Path, hashes: bool) -> str | None:
    """What is wrong with a checkpoint; None for nothing."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        if not files:
            return f"{MANIFEST} lists no file"
        for name, facts in files.items():
            facts = {"size": facts} if isinstance(facts, int) else facts  # before there were hashes
            if (path / name).stat().st_size != facts["size"]:
                return f"{name} has another size than when it was written"
            if hashes and "sha256" in facts and digest_of(path / name) != facts:
                return f"{name} holds something else than what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None
