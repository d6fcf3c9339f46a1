"""A cache of tower features that grows, is read while it grows, and outlives every kill."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rgpt import files
from rgpt.commands import cache_features
from rgpt.errors import InputError
from rgpt.model import load
from rgpt.regions import open_image
from rgpt.train import feature_cache
from rgpt.train.feature_cache import FeatureCache, write_cache
from tests.model.tiny_models import make_picture
from tests.train.little import little_mix, little_model


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return load(little_model(tmp_path_factory.mktemp("model")))


def draw(folder: Path, *seeds: int) -> list[Path]:
    """Pictures without compression: all files are of one size."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        make_picture(seed).save(folder / f"{seed}.bmp")
    return [folder / f"{seed}.bmp" for seed in seeds]


def features(opened: tuple[Any, Any], picture: Path) -> Tensor:
    model, processor = opened
    with torch.inference_mode():
        return model.model.vision_features(processor.pixel_values([open_image(picture)]))[0]


def check(opened: tuple[Any, Any], cache: FeatureCache, *pictures: Path) -> None:
    """What the cache has of each picture is what the tower makes of it, and no other's."""
    for picture in pictures:
        found, size = cache.get(picture)
        assert size == open_image(picture).size
        assert torch.allclose(found.float(), features(opened, picture), rtol=1e-2, atol=1e-2), picture


def stored(folder: Path) -> int:
    return sum(len(load_file(path)["features"]) for path in folder.glob("features-*.safetensors"))


def missing(cache: FeatureCache, picture: Path) -> bool:
    try:
        cache.get(picture)
    except InputError as error:
        assert "expected its features in the cache" in str(error)
        return True
    return False


# ------------------------------------------------------------------------------------------------- growing


def test_features_of_two_pictures_differ_by_more_than_rounding(opened: Any, tmp_path: Path) -> None:
    """Else the checks below could not fail."""
    one, other = draw(tmp_path, 0, 1)
    assert not torch.allclose(features(opened, one), features(opened, other), rtol=1e-1, atol=1e-1)


def test_a_second_data_set_leaves_the_firsts_features(opened: Any, tmp_path: Path) -> None:
    first, second = draw(tmp_path / "z", 0, 1, 2), draw(tmp_path / "a", 3, 4, 5, 6)
    assert write_cache(tmp_path / "cache", *opened, first, shard=2, batch=2) == 3
    reader = FeatureCache(tmp_path / "cache")
    check(opened, reader, *first)
    assert missing(reader, second[0])
    before = {path.name: path.read_bytes() for path in (tmp_path / "cache").glob("features-*")}
    assert write_cache(tmp_path / "cache", *opened, second, shard=2, batch=2) == 4
    check(opened, reader, *first, *second)  # opened before the second was there
    check(opened, FeatureCache(tmp_path / "cache"), *second, *first)
    assert all((tmp_path / "cache" / name).read_bytes() == old for name, old in before.items())
    assert write_cache(tmp_path / "cache", *opened, [*first, *second], shard=3, batch=1) == 0


def test_one_picture_at_several_paths_is_stored_once(opened: Any, tmp_path: Path) -> None:
    one, two = draw(tmp_path / "a", 0, 1)
    copies = [shutil.copy(one, tmp_path / name) for name in ("first.bmp", "later.bmp", "never.bmp")]
    linked = tmp_path / "linked.bmp"
    linked.symlink_to(two)
    assert write_cache(tmp_path / "cache", *opened, [one, two, copies[0], linked], batch=1) == 2
    assert write_cache(tmp_path / "cache", *opened, [copies[1]]) == 0
    assert stored(tmp_path / "cache") == 2
    check(opened, FeatureCache(tmp_path / "cache"), one, two, linked, *copies)


def test_a_reader_sees_whole_truths_at_every_batch_of_a_writer(opened: Any, tmp_path: Path) -> None:
    first, second = draw(tmp_path, 0, 1), draw(tmp_path, *range(2, 9))
    write_cache(tmp_path / "cache", *opened, first)
    model, processor = opened
    reader, known = FeatureCache(tmp_path / "cache"), []

    def read(*call: Any) -> None:
        handle.remove()  # the checks run the tower too
        have = [picture for picture in (*first, *second) if not missing(reader, picture)]
        check(opened, reader, *have)
        check(opened, pickle.loads(pickle.dumps(reader)), *have)  # as it travels to a loader's worker
        known.append(len(have))
        hook()

    def hook() -> None:
        nonlocal handle
        handle = model.model.vision_tower.register_forward_hook(read)

    handle: Any = None
    hook()
    try:
        write_cache(tmp_path / "cache", model, processor, [*first, *second], shard=2, batch=1)
    finally:
        handle.remove()
    assert known == [2, 2, 4, 4, 6, 6, 8]


# ------------------------------------------------------------------------------------------------- content


@pytest.mark.parametrize("again", [False, True])
def test_files_that_trade_places_keep_their_own_features(opened: Any, tmp_path: Path, again: bool) -> None:
    """Of the same size and time, as a data set unpacked over another leaves them."""
    one, other, cache = *draw(tmp_path, 0, 1), tmp_path / "cache"
    write_cache(cache, *opened, [one, other])
    contents = one.read_bytes(), other.read_bytes()
    assert len(contents[0]) == len(contents[1])
    for path, content in zip((other, one), contents, strict=True):
        before = os.stat(path)
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    if again:
        assert write_cache(cache, *opened, [one, other]) == 0
    check(opened, FeatureCache(cache), one, other)


def test_a_changed_file_has_no_features_until_it_is_cached_again(opened: Any, tmp_path: Path) -> None:
    (picture,), cache = draw(tmp_path, 0), tmp_path / "cache"
    write_cache(cache, *opened, [picture])
    reader = FeatureCache(cache)
    check(opened, reader, picture)
    make_picture(1).save(picture)
    with pytest.raises(InputError, match=r"0\.bmp.*none for its content; run rgpt cache-feat"):
        reader.get(picture)
    assert write_cache(cache, *opened, [picture]) == 1
    check(opened, reader, picture)
    make_picture(0).save(picture)  # what it was at first is still there
    check(opened, reader, picture)


def test_features_are_found_where_pictures_are_not(opened: Any, tmp_path: Path) -> None:
    one, two = draw(tmp_path / "here" / "pictures", 0, 1)
    wanted = features(opened, one), features(opened, two)
    write_cache(tmp_path / "here" / "cache", *opened, [one, two])
    moved = (tmp_path / "here").rename(tmp_path / "there")
    shutil.rmtree(moved / "pictures")
    reader = FeatureCache(moved / "cache")
    for name, features_then in zip(("0.bmp", "1.bmp"), wanted, strict=True):
        found, size = reader.get(moved / "pictures" / name)
        assert size == (40, 30) and torch.allclose(found.float(), features_then, rtol=1e-2, atol=1e-2)
    assert missing(reader, moved / "pictures" / "2.bmp")


def test_without_its_list_of_paths_a_cache_lacks_nothing_but_time(opened: Any, tmp_path: Path) -> None:
    pictures, cache = draw(tmp_path, 0, 1), tmp_path / "cache"
    write_cache(cache, *opened, pictures)
    (cache / "paths.jsonl").write_bytes((cache / "paths.jsonl").read_bytes()[:-20])
    check(opened, FeatureCache(cache), *pictures)
    (cache / "paths.jsonl").unlink()
    check(opened, FeatureCache(cache), *pictures)
    assert write_cache(cache, *opened, pictures) == 0


def test_an_unchanged_picture_is_not_hashed_again(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (picture,), cache = draw(tmp_path, 0), tmp_path / "cache"
    write_cache(cache, *opened, [picture])
    hashed, plain = [], feature_cache.file_sha256
    monkeypatch.setattr(feature_cache, "file_sha256", lambda path: hashed.append(path) or plain(path))
    reader = FeatureCache(cache)
    reader.get(picture)
    assert not hashed
    picture.touch()
    reader.get(picture)
    reader.get(picture)
    assert len(hashed) == 1


# ------------------------------------------------------------------------------------------------- kills

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)  # so that a fork has no threads to miss
from rgpt.model import load
from rgpt.train.feature_cache import write_cache

out, pictures = sys.argv[2], sorted(Path(sys.argv[3]).iterdir())
opened = load(sys.argv[1])
for moment in range(1000):
    child = os.fork()
    if not child:
        count = 0
        def watch(event, arguments):
            global count
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "fcntl.flock") and any(
                isinstance(word, (str, Path)) and str(word).startswith(out) for word in arguments
            ):
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
        sys.addaudithook(watch)
        write_cache(Path(f"{out}{moment}"), *opened, pictures, shard=2, batch=2)
        os._exit(0)
    if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        break
print(moment)
"""


def test_a_kill_at_any_moment_damages_nothing(opened: Any, tmp_path: Path) -> None:
    """Killed before each of the calls that change files, in a folder of its own; then gone on with."""
    model = little_model(tmp_path / "model")
    pictures = draw(tmp_path / "pictures", *range(5))
    words = [str(model), str(tmp_path / "cache"), str(tmp_path / "pictures")]
    run = subprocess.run(
        [sys.executable, "-c", KILLED, *words], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    moments = int(run.stdout)
    assert moments > 10
    found = []
    for moment in range(moments):
        cache = tmp_path / f"cache{moment}"
        if (cache / "cache.json").exists():
            reader = FeatureCache(cache)
            have = [picture for picture in pictures if not missing(reader, picture)]
            check(opened, reader, *have)
            found.append(len(have))
        cache.mkdir(exist_ok=True)
        # A kill inside one of those calls leaves half of what it writes.
        (cache / ".features-0123.1.partial.safetensors").write_bytes(b"\x10\0\0")
        with open(cache / "paths.jsonl", "a") as stream:
            stream.write('["../pictures/0.bmp", 12')
        assert write_cache(cache, *opened, pictures, shard=2, batch=2) == 5 - (found[-1] if found else 0)
        check(opened, FeatureCache(cache), *pictures)
        assert stored(cache) == 5 and not list(cache.glob(".*"))
    assert found == sorted(found) and set(found) == {0, 2, 4, 5}


def test_a_bad_picture_costs_none_of_those_before_it(opened: Any, tmp_path: Path) -> None:
    pictures, cache = draw(tmp_path, *range(5)), tmp_path / "cache"
    good = pictures[3].read_bytes()
    pictures[3].write_bytes(good[:100])
    with pytest.raises(InputError, match=r"3\.bmp: picture: expected a complete picture"):
        write_cache(cache, *opened, pictures, batch=2)
    check(opened, FeatureCache(cache), *pictures[:2])
    pictures[3].write_bytes(good)
    assert write_cache(cache, *opened, pictures, batch=2) == 3
    check(opened, FeatureCache(cache), *pictures)


# ------------------------------------------------------------------------------------------------- refusals


def test_one_writer_at_a_time(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0)
    (picture,), cache = draw(tmp_path, 0), tmp_path / "cache"
    write_cache(cache, *opened, [])
    descriptor = os.open(cache, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="being written by another process"):
        write_cache(cache, *opened, [picture])
    os.close(descriptor)
    assert write_cache(cache, *opened, [picture]) == 1


def test_a_missing_picture_is_refused_before_any_work(opened: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.png.*nothing at this path"):
        write_cache(tmp_path / "cache", *opened, [*draw(tmp_path, 0), tmp_path / "gone.png"])
    assert not (tmp_path / "cache").exists()


def test_another_tower_is_refused_and_changes_nothing(opened: Any, tmp_path: Path) -> None:
    pictures, cache = draw(tmp_path, 0, 1), tmp_path / "cache"
    write_cache(cache, *opened, pictures[:1])
    other = load(little_model(tmp_path / "other", seed=1))
    before = {path: path.read_bytes() for path in cache.iterdir()}
    with pytest.raises(InputError, match=r"those of another .*; choose a new folder"):
        write_cache(cache, *other, pictures)
    assert {path: path.read_bytes() for path in cache.iterdir()} == before
    write_cache(tmp_path / "cache of the other", *other, pictures)
    for shard in (tmp_path / "cache of the other").glob("features-*"):
        shutil.copy(shard, cache)
    with pytest.raises(InputError, match="expected a whole shard of this cache's tower"):
        FeatureCache(cache)


def test_shards_of_one_tower_may_be_copied_together(opened: Any, tmp_path: Path) -> None:
    first, second = draw(tmp_path / "a", 0, 1), draw(tmp_path / "b", 2, 3)
    write_cache(tmp_path / "one", *opened, first)
    write_cache(tmp_path / "two", *opened, second)
    for shard in (tmp_path / "two").glob("features-*"):
        shutil.copy(shard, tmp_path / "one")
    check(opened, FeatureCache(tmp_path / "one"), *first, *second)


def test_a_damaged_shard_is_named(opened: Any, tmp_path: Path) -> None:
    pictures, cache = draw(tmp_path, 0), tmp_path / "cache"
    write_cache(cache, *opened, pictures)
    (shard,) = cache.glob("features-*")
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(InputError, match=rf"{shard.name}.*a damaged file.*delete it"):
        write_cache(cache, *opened, pictures)
    shard.unlink()
    assert write_cache(cache, *opened, pictures) == 1


@pytest.mark.parametrize("left", ["index.json", "started.json"])
def test_the_older_form_is_refused(opened: Any, tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text(json.dumps({"fingerprint": "0" * 64, "pictures": {}}))
    for use in (lambda: write_cache(tmp_path, *opened, []), lambda: FeatureCache(tmp_path)):
        with pytest.raises(
            InputError, match="got one of an older form; run rgpt cache-features into a new f"
        ):
            use()


# ------------------------------------------------------------------------------------------------- command


def test_the_command_takes_data_sets_pictures_and_folders(
    tmp_path: Path, opened: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(little_model(tmp_path / "model"))
    data = str(little_mix(tmp_path / "data", 40))
    loose = draw(tmp_path / "photos" / "summer", 20, 21)
    (tmp_path / "photos" / "notes.txt").write_text("not a picture")
    (single,) = draw(tmp_path / "single", 22)
    llava = tmp_path / "llava.json"
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]
    llava.write_text(json.dumps([{"id": "1", "image": "summer/20.bmp", "conversations": turns}]))
    (tmp_path / "empty").mkdir()

    def call(*words: str) -> str:
        assert cache_features.main([*words, "--model", model, "--out", str(tmp_path / "cache")]) == 0
        return capsys.readouterr().out

    assert "6 pictures, 6 computed now" in call(data)
    assert "9 pictures, 3 computed now" in call(data, str(tmp_path / "photos"), str(single))
    assert "1 pictures, 0 computed now" in call(str(llava), "--images", str(tmp_path / "photos"))
    check(opened, FeatureCache(tmp_path / "cache"), *loose, single, *(tmp_path / "data/pictures").iterdir())
    with pytest.raises(InputError, match=r"expected pictures .* in this folder, got none"):
        call(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="--batch: expected at least 1, got 0"):
        call(data, "--batch", "0")


def test_shards_say_what_they_hold(opened: Any, tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", *opened, draw(tmp_path, 0, 1, 2), shard=2, batch=2)
    sizes = []
    for path in (tmp_path / "cache").glob("features-*"):
        with safe_open(path, framework="pt") as file:
            listed, kept = json.loads(file.metadata()["pictures"]), file.get_tensor("features")
        assert kept.dtype == torch.bfloat16 and all(row[1:] == [40, 30] for row in listed)
        assert len(listed) == len(kept)
        sizes.append(len(kept))
    assert sorted(sizes) == [1, 2]
