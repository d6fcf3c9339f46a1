"""Where models are: what is a path never goes to the hub, and a hub that has nothing is asked once."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import pytest

from rgpt.errors import InputError
from rgpt.hub import model_folder


class Hub:
    """Stands for the network: keeps what it was asked, and has what `cached` says or nothing."""

    def __init__(self, cached: Path | None = None) -> None:
        self.asked: list[tuple[str, Any, bool]] = []
        self.cached = cached

    def __call__(self, name: str, *, revision: Any, allow_patterns: Any, local_files_only: bool) -> str:
        self.asked.append((name, revision, local_files_only))
        if self.cached is None:
            raise OSError("Name or service not known\nand more lines")
        return str(self.cached)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    made = Hub()

    def sleep(seconds: float) -> None:
        raise AssertionError("somebody tries again")

    monkeypatch.setattr("huggingface_hub.snapshot_download", made)
    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.mark.parametrize(
    "name",
    [
        "nothing", "./nothing", "../a/b", "/a/b", "~/a", "a/b/c", "runs/", "a b/c", "C:\\models\\x",
        "models\\x",
        "models/ü", "a/b.safetensors ", "-a/b", "http://a/b",
    ],
)  # fmt: skip
def test_what_is_a_path_or_no_legal_id_never_goes_to_the_hub(hub: Hub, name: str) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        model_folder(name)
    assert not hub.asked


def test_beside_what_is_here_a_name_is_a_path(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "file").touch()
    assert model_folder("runs/one") == Path("runs/one") and not hub.asked
    with pytest.raises(InputError, match="is a file"):
        model_folder("runs/file")
    with pytest.raises(InputError, match="there is no folder runs/tow"):
        model_folder("runs/tow")
    assert hub.asked == [("runs/tow", None, True)], "the cache alone"
    (tmp_path / "model.safetensors").touch()
    hub.cached = tmp_path  # a hub id whose owner happens to be called as a folder here
    assert model_folder("runs/tow") == tmp_path


def test_the_hub_is_asked_once(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"@v2 is no folder.*\(Name or service not known\)") as caught:
        model_folder("owner/name@v2")
    assert "\n" not in str(caught.value) and hub.asked == [("owner/name", "v2", False)]


DOORS = {
    "load": "rgpt.model:load",
    "config": "rgpt.model.loading:open_config",
    "processor": "rgpt.model.loading:open_processor",
    "assemble": "rgpt.model.assemble_sources:find_source",
    "clip": "rgpt.recognizers.clip_towers:load_clip",
    "sam": "rgpt.recognizers.sam:load_sam",
    "sam proposals": "rgpt.recognizers.proposals:open_source",
    "grounding dino": "rgpt.recognizers.proposals:open_source",
    "recognizer": "rgpt.recognizers.loading:open_recognizer",
    "the app's sam": "app.sam:SamSegmenter",
    "embedder": "eval.scorers.embedders:load_embedder",
    "tokenizer": "rgpt.train.recognizers.recipe:open_tokenizer",
    "backend": "rgpt.backends:open_backend",
}
FORMS = {
    "sam proposals": "sam:{}",
    "grounding dino": "grounding-dino:{}?a cat.",
    "recognizer": "clip-crop@{}",
    "backend": "rgpt:{}",
}


@pytest.mark.parametrize("name", ["runs/nothing", "no-owner/nothing"])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_says_at_once_what_is_not_there(hub: Hub, tmp_path: Path, door: str, name: str) -> None:
    (tmp_path / "runs").mkdir()
    module, _, attribute = DOORS[door].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    with pytest.raises(InputError) as caught:
        getattr(found, "load", found)(FORMS.get(door, "{}").format(name))
    assert "nothing" in str(caught.value) and "\n" not in str(caught.value)
    assert [local for *_, local in hub.asked] == [name == "runs/nothing"]
