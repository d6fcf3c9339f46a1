"""Files and folders are there whole or not at all, whatever fails when; and one process writes a folder."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rgpt import files
from rgpt.errors import InputError
from tests.train.little import little_mix, little_model, little_run


class Stop(Exception):
    pass


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    files.write_json(path, {"é": 1})
    with pytest.raises(Stop), files.whole_file(path) as partial:
        partial.write_text("half")
        raise Stop
    assert path.read_text("utf-8") == '{\n "é": 1\n}\n'
    assert os.listdir(tmp_path) == ["scores.json"]


def test_a_hidden_file_keeps_the_suffix_that_libraries_choose_a_format_by(tmp_path: Path) -> None:
    with files.whole_file(tmp_path / "curve.png") as partial:
        assert partial.suffix == ".png" and partial.name.startswith(".") and partial.match(files.LEFT_OVER)
        partial.touch()


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(Stop), files.whole_folder(tmp_path / "new") as partial:
        (partial / "a").touch()
        raise Stop
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fails", ["in the block", "at the rename"])
def test_a_folder_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    rename = os.replace

    def refuse(source: Path, target: Path) -> None:
        if str(source).endswith(".partial"):
            raise OSError("no")
        rename(source, target)

    with pytest.raises((Stop, OSError)), files.whole_folder(tmp_path / "model", replace=True):
        if fails == "in the block":
            raise Stop
        monkeypatch.setattr(os, "replace", refuse)
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["old"]
    monkeypatch.undo()
    with files.whole_folder(tmp_path / "model", replace=True) as partial:
        (partial / "new").touch()
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["new"]


HOLD = """
import sys, time
from rgpt.files import sole_writer
with sole_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path: Path):
    """A folder that another process writes, and that process."""
    folder = tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        yield folder, other
        other.kill()


def test_a_folder_has_one_writer_until_that_one_is_killed(held, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = held
    monkeypatch.setattr(files, "PATIENCE", 0)
    with pytest.raises(InputError, match="is being written by another process"), files.sole_writer(folder):
        raise AssertionError
    other.send_signal(signal.SIGKILL)
    other.wait()
    with files.sole_writer(folder):
        pass


def test_two_runs_do_not_train_into_one_folder(held, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rgpt.train.run import train

    folder, _ = held
    monkeypatch.setattr(files, "PATIENCE", 0)
    data = little_mix(tmp_path / "data", 4)
    run = little_run(folder, little_model(tmp_path / "model"), data)
    with pytest.raises(InputError, match="is being written by another process"):
        train(run)
    assert os.listdir(folder) == []


def test_a_digest_is_the_same_of_bytes_text_pieces_and_a_file(tmp_path: Path) -> None:
    text = "größer \ud800"
    data = text.encode("utf-8", "surrogatepass") * 3
    (tmp_path / "it").write_bytes(data)
    assert files.sha256(text) == hashlib.sha256(data[: len(data) // 3]).hexdigest()
    expected = hashlib.sha256(data).hexdigest()
    assert files.sha256(data) == files.sha256(iter([data[:5], data[5:]])) == expected
    assert files.file_sha256(tmp_path / "it") == expected
