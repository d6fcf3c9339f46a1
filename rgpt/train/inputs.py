"""What a run reads, by size and hash, so that a resumed run knows whether it is still the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rgpt.errors import InputError
from rgpt.files import file_sha256, write_json
from rgpt.train.arguments import Run

FILE = "inputs.json"


def digest_of(path: Path | str) -> dict[str, Any]:
    """{"size": bytes, "sha256": hex digits} of a file."""
    return {"size": Path(path).stat().st_size, "sha256": file_sha256(path)}


def inputs_of(run: Run) -> dict[str, Any]:
    """By the name that a message gives it: data files, held-out file, DeepSpeed JSON, base weights."""
    from rgpt.model.bases import base_digest, embedded

    files = [("data", item.path) for item in run.data]
    files += [("held_out", run.held_out.path)] if run.held_out else []
    files += [("deepspeed", run.deepspeed)] if run.deepspeed else []
    digests: dict[str, Any] = {f"{name} {path}": digest_of(path) for name, path in files}
    digest = base_digest(run.model, str(embedded(run.model) or run.model))
    return {**digests, f"model {run.model}": {"sha256": digest}}


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


def compare_inputs(out: Path, now: dict[str, Any], accept: bool) -> list[str]:
    """What has changed since the run in `out` began; with `accept` the new state is recorded.

    Raises:
        InputError: something has, and that is not accepted.
    """
    try:
        before = json.loads((out / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        print(f"{out} does not say what its run read: whether that has changed is not known", flush=True)
        before = {}
    differences = changes(before, now)
    if differences and not accept:
        raise InputError.about(
            f"--resume of {out}",
            "the data, base and DeepSpeed settings it began with",
            f"changed: {', '.join(differences)}",
            "put them back, or add --accept-changed-data",
        )
    if before != now:
        write_json(out / FILE, now)
    return differences
