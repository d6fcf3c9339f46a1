"""What a run reads, by size and hash, so that a resumed run knows whether it is still the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.files import check_writable, file_sha256, sha256, write_json
from rgpt.train.arguments import Run

FILE = "inputs.json"
READ = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""What of a model's folder is read."""
PROVENANCE = ("run.yaml", "versions.json", FILE)


def check_out(out: Path, resume: bool) -> bool:
    """Whether `out` holds a run.

    Raises:
        InputError: it cannot be written, holds a run that is not to be resumed, or holds something else.
    """
    check_writable(out)
    if (out / "run.yaml").is_file():
        if not resume:
            raise InputError.about(
                "out",
                "a new folder",
                f"{str(out)!r}, which holds a run",
                "add --resume to continue it, or name another",
            )
        return True
    if out.is_dir():
        # A kill may have left the first of our own files there.
        other = [path.name for path in out.iterdir() if path.name[0] != "." and path.name not in PROVENANCE]
        if other:
            raise InputError.about(
                "out",
                "a new folder, or one that holds a run",
                f"{str(out)!r} with {', '.join(sorted(other))[:80]} and no run.yaml",
                "name another",
            )
    return False


def digest_of(path: Path | str) -> dict[str, Any]:
    """{"size": bytes, "sha256": hex digits} of a file."""
    return {"size": Path(path).stat().st_size, "sha256": file_sha256(path)}


def folder_digest(path: Path) -> dict[str, Any]:
    """{"sha256": hex digits} of a folder's weights and settings."""
    listed = [[file.name, digest_of(file)] for file in sorted(path.glob("*")) if file.suffix in READ]
    return {"sha256": sha256(json.dumps(listed).encode())}


def inputs_of(run: Run) -> dict[str, Any]:
    """By the name that a message gives it: data files, held-out file, DeepSpeed JSON, base weights."""
    from rgpt.model.bases import base_digest, embedded

    files = [("data", item.path) for item in run.data]
    files += [("held_out", run.held_out.path)] if run.held_out else []
    files += [("deepspeed", run.deepspeed)] if run.deepspeed else []
    digests: dict[str, Any] = {f"{name} {path}": digest_of(path) for name, path in files}
    digest = base_digest(run.model, str(embedded(run.model) or run.model))
    return {**digests, f"model {run.model}": {"sha256": digest}}


def read_inputs(out: Path) -> dict[str, Any] | None:
    """What a run recorded; None for nothing. Raises InputError for what is no such record."""
    path = out / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(facts, dict) for facts in found.values()):
        raise InputError(
            f"{path} cannot be read, so whether the data are still the same is not known: put it back, or "
            "remove it to go on regardless."
        )
    return found


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, in words; held-out files may, they are not trained on."""
    said = []
    for name in now:
        then, is_now = before.get(name), now[name]
        if name.startswith("held_out ") or then is None or then == is_now:
            continue
        sizes = (then.get("size"), is_now.get("size"))
        said.append(f"{name} ({sizes[0]:,} bytes then, {sizes[1]:,} now)" if sizes[0] != sizes[1] else name)
    return said


def record_inputs(out: Path, inputs: dict[str, Any]) -> None:
    """Beside the settings, for whoever goes on."""
    write_json(out / FILE, inputs)


def compare_inputs(out: Path, now: dict[str, Any], accept: bool) -> list[str]:
    """What has changed since the run in `out` began; with `accept` the new state is recorded.

    Raises:
        InputError: something has, and that is not accepted.
    """
    before = read_inputs(out)
    if before is None:
        print(f"{out} does not say what its run read: whether that has changed is not known", flush=True)
    found = changes(before or {}, now)
    if found and not accept:
        raise InputError.about(
            f"--resume of {out}",
            "the data and models it began with",
            f"changed: {', '.join(found)}",
            "put them back, or add --accept-changed-data",
        )
    if before != now:
        record_inputs(out, now)
    return found
