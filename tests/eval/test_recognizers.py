"""Recognizers as models of eval.run, and several models in one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval import compare, run
from eval.recognizers import RecognizerSession, is_recognizer, parameters
from rgpt.errors import InputError
from rgpt.recognizers import save_recognizer
from tests.recognizers.tiny_recognizers import make, picture, some_regions

SHAPES = ["region_classification", "--data", "shapes", "--count", "2", "--threads", "1", "--no-sheet"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A random recognizer of each kind."""
    root = tmp_path_factory.mktemp("recognizers")
    for name, kind in (
        ("clip", "clip-crop"),
        ("spot", "regionspot"),
        ("regionclip", "regionclip"),
        ("rovit", "rovit"),
    ):
        save_recognizer(make(kind), root / name)
    return {path.name: str(path) for path in root.iterdir()}


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_one_table_of_recognizers_and_a_chat_model(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [folders["spot"], f"clip-masked-crop@{folders['clip']}", folders["rovit"], "tiny"]
    out = tmp_path / "out"
    command = [*SHAPES, "--protocol", "scored", "--model", *models, "--out", str(out)]
    assert run.main([*command, "--json", str(tmp_path / "all.json")]) == 0
    printed = capsys.readouterr().out
    assert (out / "table.md").read_text().strip() in printed
    head, _, *lines = printed.splitlines()
    for title in ("AP", "Acc", "ms a region", "trained"):
        assert f"| {title} |" in head
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[:4]] == models
    written = json.loads((tmp_path / "all.json").read_text())["models"]
    assert [row["model"] for row in written] == models
    assert all(0 <= row["mAP"] <= 1 and 0 <= row["accuracy"] <= 1 and row["ms"] > 0 for row in written)
    assert written[1]["parameters"]["trained"] == 0 < written[0]["parameters"]["trained"]
    asked = [
        [(row["id"], row["regions"]) for row in rows_of(out / compare.folder_name(model))] for model in models
    ]
    assert all(own == asked[0] for own in asked)  # the same regions, whoever answers
    for row in rows_of(out / compare.folder_name(models[0])):
        assert sum(row["scores"].values()) == pytest.approx(1) and len(row["scores"]) == 8
        assert row["score"] == max(row["scores"].values())
    again = run.main(command)  # everything is answered already
    assert again == 0 and capsys.readouterr().out == printed
    assert compare.main([str(out / compare.folder_name(model)) for model in models]) == 0
    assert capsys.readouterr().out == printed


def test_a_recognizer_alone_answers_either_protocol(folders: dict[str, str], tmp_path: Path) -> None:
    said = {}
    for protocol in ("scored", "author-script"):
        out = tmp_path / protocol
        command = [*SHAPES, "--protocol", protocol, "--model", folders["regionclip"], "--out", str(out)]
        assert run.main(command) == 0
        said[protocol] = [row["answer"] for row in rows_of(out)]
        assert "parameters" in json.loads((out / "run.json").read_text())
    assert said["scored"] == said["author-script"]


def test_the_session_is_the_recognizer(folders: dict[str, str]) -> None:
    """What the evaluation asks is `recognize` itself, with all regions of the picture together."""
    session = RecognizerSession(folders["spot"], "cpu")
    session.set_image(picture())
    expected = make("regionspot").recognize([picture()], [some_regions()], ("red car", "tree"))[0]
    assert session.recognize(some_regions(), ["red car", "tree"]).probs.equal(expected.probs)
    head = make("regionspot").head
    assert parameters(session)["trained"] == sum(p.numel() for p in head.parameters())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--ask", "multi-turn"], "--ask with the recognizer"),
        (["--dtype", "bfloat16"], "--dtype with the recognizer"),
    ],
)
def test_what_a_recognizer_cannot_do_is_refused(
    folders: dict[str, str], more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*SHAPES, "--model", "tiny", folders["spot"], *more]) == 2
    assert says in capsys.readouterr().err
    assert run.main(["shapes", "--count", "1", "--model", folders["spot"]]) == 2
    assert "task with the recognizer" in capsys.readouterr().err


def test_an_untrained_name_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main([*SHAPES, "--model", "regionspot"]) == 2
    assert "train one" in capsys.readouterr().err


def test_only_recognizers_are_recognizers(tmp_path: Path) -> None:
    assert is_recognizer("clip-crop") and is_recognizer("regionspot@anywhere")
    assert not is_recognizer("tiny") and not is_recognizer(str(tmp_path))


ROW = {
    "model": "a", "task": "region_classification", "protocol": "scored", "args": {"seed": 0, "guide": "on"},
    "parameters": {"trained": 5, "all": 1234567}, "mAP": 0.25, "AP50": None, "accuracy": 0.5, "ms": 1.25,
    "n": 4, "failed": 0,
}  # fmt: skip


def test_the_table() -> None:
    text = compare.table([ROW, {**ROW, "model": "b", "mAP": None, "failed": 1}])
    assert text.splitlines()[2:] == [
        "| a | 0.2500 | 0.5000 | 1.25 | 5 | 1,234,567 |",
        "| b | – | 0.5000 | 1.25 | 5 | 1,234,567 |",
        "",
        "region_classification, 4 regions, protocol scored; failed: b 1",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"protocol": "author-script"}, "protocol of b"),
        ({"n": 3}, "n of b"),
        ({"args": {"seed": 1, "guide": "on"}}, "--seed of b"),
        ({"args": {"seed": 0, "guide": "on", "regions": "box"}}, "--regions of b"),
    ],
)
def test_other_items_are_not_compared(change: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        compare.check_same([ROW, {**ROW, "model": "b", **change}])
    compare.check_same([ROW, {**ROW, "args": {"seed": 0, "guide": "off"}}])  # recognizers have no guide


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([str(tmp_path)]) == 2
    assert "a finished run of eval.run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("tiny", "tiny"),
        ("clip-crop@runs/recognizers/clip", "clip-crop-runs-recognizers-clip"),
        ("../..", "model"),
    ],
)
def test_folder_names(model: str, name: str) -> None:
    assert compare.folder_name(model) == name
