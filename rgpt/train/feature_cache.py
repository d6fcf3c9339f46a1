"""Features of the frozen tower, computed once: `rgpt cache-features` writes them, training reads them.

A cache is a folder that only ever grows, and may be read at any moment:

- `cache.json`: the fingerprint of tower and preprocessing;
- `features-*.safetensors`: one bf16 tensor `[n, C, h, w]` each, and in its metadata the pictures of its rows
  (SHA-256 of the file's bytes, width, height). A shard appears whole and never changes; what is cached is the
  union of the shards, so shards of one tower may be copied together from several folders;
- `paths.jsonl`: what content a path had, and when. With it unchanged pictures need not be hashed again, and
  features are found where the pictures themselves are not. Paths are seen from the cache's folder, so both
  can move together. Nothing is lost without this file but time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from rgpt.errors import InputError
from rgpt.files import LEFT_OVER, file_sha256, sha256, sole_writer, whole_file, write_text
from rgpt.formats.jsonl import BrokenLine, parse_line
from rgpt.model.bases import read_json, tensors_in
from rgpt.regions import open_image

FORM = 2
HEADER, PATHS = "cache.json", "paths.jsonl"
Listed = tuple[str, int, int]
"""Of the picture of one row: SHA-256 of the file, width and height of the upright picture."""


def fingerprint(tower: nn.Module, config: Any, processor: Any) -> str:
    """SHA-256 of everything a feature depends on: tower weights (as bf16), layer, grid, preprocessing.

    bf16, so that a tower loaded in another precision for training has the same one.
    """
    settings = {
        "form": FORM,
        "layer": config.vision_feature_layer,
        "strategy": config.vision_feature_select_strategy,
        "grid": config.vision_grid,
        "image_size": processor.image_size,
        "mean": [float(value) for value in processor.image_mean],
        "std": [float(value) for value in processor.image_std],
    }

    def pieces() -> Iterator[bytes]:
        yield json.dumps(settings, sort_keys=True).encode()
        for name, value in sorted(tower.state_dict().items()):
            yield f"{name} {list(value.shape)}".encode()
            kept = value.detach().cpu()
            kept = kept.to(torch.bfloat16).view(torch.int16) if kept.is_floating_point() else kept
            yield kept.contiguous().numpy().tobytes()

    return sha256(pieces())


def write_cache(
    folder: Path, model: Any, processor: Any, pictures: Iterable[str | Path], shard: int = 64, batch: int = 16
) -> int:
    """Run every picture whose content is new through the tower; returns how many these were.

    What earlier calls cached stays. `shard` is the number of pictures that a kill can cost. Raises InputError
    for a picture that cannot be read (those before it are kept), and for a folder that holds features of
    another tower or that another call is writing to.
    """
    unique = sorted({os.path.realpath(path) for path in pictures})
    for path in unique:
        if not os.path.isfile(path):
            raise InputError.about(f"picture {path!r}", "a file", "nothing at this path")
    mark = fingerprint(model.model.vision_tower, model.config, processor)
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder):
        for left_over in folder.glob(LEFT_OVER):
            left_over.unlink()
        if not (folder / HEADER).exists() and not _older(folder):
            write_text(folder / HEADER, json.dumps({"fingerprint": mark}))
        cache = FeatureCache(folder)
        cache.check(mark, fix="choose a new folder")
        return _add(cache, model, processor, unique, shard, batch)


def _add(cache: FeatureCache, model: Any, processor: Any, paths: list[str], shard: int, batch: int) -> int:
    device = next(model.parameters()).device
    seen: dict[str, list[Any]] = {}
    begun: set[str] = set()
    waiting: dict[str, Image.Image] = {}
    done: list[tuple[Tensor, list[Listed]]] = []
    computed = 0

    def run_tower() -> None:
        pixels = processor.pixel_values(list(waiting.values())).to(device)
        with torch.inference_mode():
            features = model.model.vision_features(pixels).to(torch.bfloat16).cpu()
        done.append((features, [(content, *picture.size) for content, picture in waiting.items()]))
        waiting.clear()

    def keep() -> None:
        nonlocal computed
        if done:
            listed = [row for _, rows in done for row in rows]
            _write_shard(cache, torch.cat([features for features, _ in done]), listed)
            computed += len(listed)
            done.clear()
        _append_lines(cache.folder / PATHS, [[key, *known] for key, known in seen.items()])
        seen.clear()
        cache.refresh()

    try:
        for path in tqdm(paths, desc="tower features", unit="picture", mininterval=1):
            try:
                # One reading for both, so that the features are of the very bytes the digest is of.
                with open(path, "rb") as stream:
                    stamp, data = _stamp(os.fstat(stream.fileno())), stream.read()
                content, key = sha256(data), _key(cache.folder, path)
                if content not in cache.rows and content not in begun:
                    waiting[content] = open_image(data)
                    begun.add(content)
            except (OSError, InputError) as error:
                raise InputError(f"{path}: {error}") from error
            if cache.paths.get(key) != [*stamp, content]:
                seen[key] = [*stamp, content]
            if len(waiting) == batch:
                run_tower()
            if sum(len(rows) for _, rows in done) >= shard:
                keep()
        if waiting:
            run_tower()
    finally:
        keep()
    return computed


def _write_shard(cache: FeatureCache, features: Tensor, listed: list[Listed]) -> None:
    """`[n, C, h, w]` and the pictures of its rows, under a name that is theirs alone."""
    pictures = json.dumps(listed)
    name = sha256(f"{cache.fingerprint} {pictures}")[:16]
    path = cache.folder / f"features-{name}.safetensors"
    facts = {"fingerprint": cache.fingerprint, "pictures": pictures}
    with whole_file(path) as partial:
        save_file({"features": features.contiguous()}, partial, metadata=facts)


def _append_lines(path: Path, rows: list[list[Any]]) -> None:
    if rows:
        # The empty line ends one that a kill may have cut short.
        # ASCII, unlike `dump_line`: a path may hold bytes that are no UTF-8.
        text = "\n" + "".join(json.dumps(row) + "\n" for row in rows)
        with open(path, "ab") as stream:
            stream.write(text.encode())


def _older(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("index.json", "started.json"))


def _key(folder: Path, picture: str | Path) -> str:
    return Path(os.path.relpath(os.path.realpath(picture), os.path.realpath(folder))).as_posix()


def _stamp(found: os.stat_result) -> list[int]:
    """Differs after a change. The time of the last change of *status* is in it because copying and unpacking
    set the other one, so that files of one size can trade places unnoticed."""
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


class FeatureCache:
    """Features by picture, also while they are being written; of the files only the rows asked for are read.

    Attributes:
        rows: content of a picture -> (shard, row, width, height).
        paths: path seen from the cache's folder -> [size, two times of change, content then].
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / HEADER).is_file():
            raise InputError.about(
                f"features {str(folder)!r}",
                "a folder written by rgpt cache-features",
                "one of an older form" if _older(folder) else "none",
                "run rgpt cache-features into a new folder",
            )
        self.fingerprint: str = read_json(folder / HEADER).get("fingerprint", "")
        self.rows: dict[str, tuple[str, int, int, int]] = {}
        self.paths: dict[str, list[Any]] = {}
        self._shards: set[str] = set()
        self._read = 0
        self.refresh()

    def refresh(self) -> None:
        """Take in what was written since. Raises InputError for a shard that is damaged or of another
        tower."""
        for path in sorted(self.folder.glob("features-*.safetensors")):
            if path.name not in self._shards:
                for row, (content, width, height) in enumerate(self._listed(path)):
                    self.rows.setdefault(content, (path.name, row, width, height))
                self._shards.add(path.name)
        if (self.folder / PATHS).is_file():
            with open(self.folder / PATHS, "rb") as stream:
                stream.seek(self._read)
                whole, end, _ = stream.read().rpartition(b"\n")
            self._read += len(whole) + len(end)
            for line in whole.split(b"\n"):
                try:
                    key, *known = parse_line(line)
                except BrokenLine:
                    continue  # empty, or cut short by a kill
                self.paths[key] = known

    def _listed(self, path: Path) -> list[Listed]:
        try:
            with safe_open(path, framework="pt") as file:
                found = file.metadata() or {}
            actual = f"features of another ({found['fingerprint'][:12]})"
        except (OSError, SafetensorError, KeyError) as error:
            found, actual = {}, f"a damaged file ({error})"
        if found.get("fingerprint") != self.fingerprint:
            raise InputError.about(
                f"features {str(path)!r}",
                f"a whole shard of this cache's tower ({self.fingerprint[:12]})",
                actual,
                "delete it and run rgpt cache-features again",
            )
        return json.loads(found["pictures"])

    def check(self, wanted: str, fix: str = "run rgpt cache-features into a new folder") -> None:
        """Raises InputError when the cache belongs to another tower or preprocessing."""
        if self.fingerprint != wanted:
            raise InputError.about(
                f"features {str(self.folder)!r}",
                f"those of this model's tower and preprocessing ({wanted[:12]})",
                f"those of another ({self.fingerprint[:12]})",
                fix,
            )

    def get(self, path: str | Path) -> tuple[Tensor, tuple[int, int]]:
        """(`[C, h, w]` bf16, (width, height) of the upright picture). Raises InputError."""
        content = self._content(path)
        if content not in self.rows:
            self.refresh()
        if content not in self.rows:
            raise InputError.about(
                f"picture {str(path)!r}",
                "its features in the cache",
                "none for its content",
                "run rgpt cache-features again",
            )
        name, row, width, height = self.rows[content]
        return _shard(self.folder / name).row(row), (width, height)

    def _content(self, path: str | Path) -> str | None:
        """The digest of what lies at `path` now, read only if that may have changed; of a file that is not
        here the last one known."""
        key = _key(self.folder, path)
        known = self.paths.get(key)
        try:
            now = _stamp(os.stat(path))
            if known is None or known[:-1] != now:
                known = self.paths[key] = [*now, file_sha256(path)]
        except OSError:
            if known is None:
                self.refresh()
                known = self.paths.get(key)
        return None if known is None else known[-1]


class _Shard:
    """The features of one file, read by position: a mapped file that is cut short would end the process."""

    def __init__(self, path: Path) -> None:
        (facts,) = [facts for facts in tensors_in(path) if facts[0] == "features"]
        _, kind, self.shape, self.start, self.end = facts
        assert kind == "BF16"
        self.path, self.opened = path, os.open(path, os.O_RDONLY)
        self.stamp = _stamp(os.fstat(self.opened))[:2]

    def __del__(self) -> None:
        if "opened" in self.__dict__:
            os.close(self.opened)

    def row(self, number: int) -> Tensor:
        """`[C, h, w]` bf16. Raises InputError when the file has been written to since."""
        length = (self.end - self.start) // self.shape[0]
        data = os.pread(self.opened, length, self.start + number * length)
        now = _stamp(os.fstat(self.opened))[:2]
        if now != self.stamp or len(data) != length:
            raise InputError.about(
                f"features {str(self.path)!r}",
                f"the {self.stamp[0]:,} bytes that it had when it was opened",
                f"{now[0]:,}, written since",
                "delete it and run rgpt cache-features again",
            )
        return torch.frombuffer(bytearray(data), dtype=torch.bfloat16).reshape(self.shape[1:])


_shard = lru_cache(maxsize=64)(_Shard)
