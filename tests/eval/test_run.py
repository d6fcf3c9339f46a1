"""eval.run around ten-line fakes: what is written, resumed, divided between processes and reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval import pictures, report, run
from eval.store import Store, read_rows, to_do
from eval.tasks.base import Answer, Item, Picture, Task, softmax
from rgpt.errors import InputError
from rgpt.regions import Box

ROOT = Path(__file__).parents[2]
IMAGE = Image.new("RGB", (40, 30))


class Echo(Task):
    """Answers every prompt with itself; refuses what it is told to refuse."""

    name, protocol = "echo", "plain"

    def __init__(self, refuse: str = "") -> None:
        self.refuse, self.asked = refuse, 0

    def answers(self, session: Any, items: Sequence[Item]) -> list[Answer]:
        self.asked += 1
        if any(item.prompt == self.refuse for item in items):
            raise InputError("no.")
        return [Answer(item.prompt, score=0.5) for item in items]


class Session:
    def set_image(self, image: Any) -> None:
        assert image.size == (40, 30)

    def reset(self) -> None:
        pass


def picture(id_: int, *prompts: str, image: Any = lambda: IMAGE, problem: str | None = None) -> Picture:
    ids = tuple(f"{id_}/{p}" for p in prompts)
    items = [Item(i, p, {1: Box(0, 0, 9, 9)}, problem=problem) for i, p in zip(ids, prompts, strict=True)]
    return Picture(id_, image, ids, lambda: items)


# ------------------------------------------------------------------------------------- one picture


def test_rows_have_the_form_that_eval_score_reads() -> None:
    (row,) = Echo().rows(Session(), picture(7, "a"))  # type: ignore[arg-type]
    seconds = row.pop("seconds")
    assert seconds >= 0
    assert row == {
        "id": "7/a",
        "image_id": 7,
        "task": "echo",
        "prompt": "a",
        "regions": [{"box": [0, 0, 9, 9]}],
        "raw_answer": "a",
        "answer": "a",
        "score": 0.5,
    }


def test_only_the_bad_item_of_a_batch_fails() -> None:
    rows = Echo(refuse="b").rows(Session(), picture(7, "a", "b", "c"))  # type: ignore[arg-type]
    assert [row.get("failed") for row in rows] == [None, "no.", None]
    assert "answer" not in rows[1]


def test_an_item_that_cannot_be_asked_is_not_asked() -> None:
    task = Echo()
    (row,) = task.rows(Session(), picture(7, "a", problem="the region is outside"))  # type: ignore[arg-type]
    assert row["failed"] == "the region is outside" and task.asked == 0


def test_a_missing_picture_fails_its_items(tmp_path: Path) -> None:
    rows = Echo().rows(Session(), picture(7, "a", "b", image=tmp_path / "no.jpg"))  # type: ignore[arg-type]
    assert all("no.jpg" in row["failed"] for row in rows) and len(rows) == 2


def test_softmax_orders_names_and_sums_to_one() -> None:
    shares = softmax({"b": -2.0, "a": -2.0, "c": -1.0})
    assert list(shares) == ["c", "a", "b"] and sum(shares.values()) == pytest.approx(1)


# ------------------------------------------------------------------------------------------------- the folder


def rows_of(*pictures: Picture) -> list[dict[str, Any]]:
    return [row for p in pictures for row in Echo().rows(Session(), p)]  # type: ignore[arg-type]


DATA = [picture(1, "a", "b"), picture(2, "c"), picture(3, "d", "e")]


def test_a_last_line_that_was_cut_off_is_dropped_and_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    store.open({"model": "m"})
    store.add(rows_of(*DATA))
    whole = store.file.read_bytes()
    for length in range(len(whole) - 30, len(whole) - 1):
        store.file.write_bytes(whole[:length])
        left, kept = to_do(DATA, store.rows())
        assert [p.id for p in left] == [3] and len(kept) == 3
    assert "cut off" in capsys.readouterr().err


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"id": "1", "image_id": 1}\n{"id": \n{"id": "2", "image_id": 1}\n')
    with pytest.raises(InputError, match=r"predictions.jsonl:2: .* asked again"):
        read_rows(file)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_number_of_processes_leaves_the_same_file(tmp_path: Path, world: int) -> None:
    expected = rows_of(*DATA)
    stores = [Store(tmp_path, rank, world) for rank in range(world)]
    stores[0].open({"model": "m"})
    left, _ = to_do(DATA, stores[0].rows())
    for rank in reversed(range(world)):
        for p in left[rank::world]:
            stores[rank].add(rows_of(p))
    found = stores[0].finish(DATA)
    without_seconds = [{k: v for k, v in row.items() if k != "seconds"} for row in found]
    assert without_seconds == [{k: v for k, v in row.items() if k != "seconds"} for row in expected]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions.jsonl", "run.json"]


def test_parts_of_processes_that_were_killed_are_gathered(tmp_path: Path) -> None:
    Store(tmp_path).open({"model": "m"})
    Store(tmp_path, 1, 2).add(rows_of(DATA[1]))
    again = Store(tmp_path)
    again.open({"model": "m"})
    left, kept = to_do(DATA, again.rows())
    assert [p.id for p in left] == [1, 3] and [row["id"] for row in kept] == ["2/c"]


def test_failed_items_are_asked_again_only_when_told_to() -> None:
    rows = [*rows_of(DATA[0]), {**rows_of(DATA[1])[0], "failed": "no."}]
    assert [p.id for p in to_do(DATA, rows)[0]] == [3]
    assert [p.id for p in to_do(DATA, rows, retry_failed=True)[0]] == [2, 3]


def test_where_the_number_of_questions_is_unknown_the_last_picture_is_asked_again() -> None:
    unknown = [Picture(p.id, p.image, None, p.make_items) for p in DATA]
    assert [p.id for p in to_do(unknown, rows_of(*DATA[:2]))[0]] == [2, 3]


@pytest.mark.parametrize("before", [{"model": "other"}, {"model": "m", "args": {"seed": 1}}])
def test_predictions_of_another_run_are_refused(tmp_path: Path, before: Mapping[str, Any]) -> None:
    Store(tmp_path).open(before)
    with pytest.raises(InputError, match="name another folder"):
        Store(tmp_path).open({"model": "m", "args": {"seed": 0}})


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="new or empty folder"):
        Store(tmp_path).open({"model": "m"})


# ------------------------------------------------------------------------------------------------- the report

RUN = {
    "model": "m", "revision": "r1", "task": "echo", "protocol": "plain", "args": {"seed": 0, "limit": None},
    "command": "python -m eval.run echo",
}  # fmt: skip


def test_the_report_says_what_was_asked_of_whom() -> None:
    rows = [*rows_of(DATA[0]), {"id": "9", "image_id": 9, "failed": "no such picture", "seconds": 0.1}]
    scores = {
        "accuracy": 0.5, "APl": None, "n": 3, "failed": 1, "per_size": {"small": {"n": 2, "accuracy": 0.5}},
        "per_class": {"cat": {"n": 3, "accuracy": 1 / 3, "AP": 0.2}}, "confusions": [["cat", "dog", 2]],
    }  # fmt: skip
    text = report.markdown(RUN, scores, rows, ["confusion.png"])
    for part in (
        "revision: `r1`", "protocol: plain", "items: 3, failed: 1", "| accuracy | 0.5000 |", "| APl | – |",
        "| small | 2 | 0.5000 |", "| cat | 3 | 0.3333 | 0.2000 |", "`9`: no such picture", "(confusion.png)",
    ):  # fmt: skip
        assert part in text, part


def test_what_could_not_be_measured_is_no_row_of_the_table() -> None:
    text = run.table({"no_match": None, "accuracy": 0.5, "n": 2, "failed": 0, "protocol": "plain"})
    assert "accuracy" in text and "no_match" not in text


def test_pictures_are_drawn_where_there_is_something_to_show() -> None:
    scores = {"per_class": {"cat": {"n": 3, "accuracy": 1 / 3}}, "confusions": [["cat", "dog", 2]]}
    assert pictures.confusion(scores) is not None
    assert pictures.confusion({"confusions": []}) is None

    class Wrong(Echo):
        def is_right(self, row: Mapping[str, Any], item: Item) -> bool:
            return item.prompt == "a"

    sheet = pictures.contact_sheet(Wrong(), DATA, rows_of(*DATA))
    one = pictures.contact_sheet(Wrong(), DATA[1:2], rows_of(*DATA))
    assert sheet is not None and one is not None and sheet.width == 4 * one.width
    assert pictures.contact_sheet(Wrong(), [picture(1, "a")], rows_of(picture(1, "a"))) is None


# ------------------------------------------------------------------------------------------------- end to end


def without_seconds(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


CLASSIFY = ["region_classification", "--data", "shapes", "--count", "3", "--threads", "1", "--no-sheet"]


def test_a_run_that_was_stopped_goes_on_and_leaves_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*CLASSIFY, "--out", str(tmp_path / "a")]) == 0
    assert run.main([*CLASSIFY, "--out", str(tmp_path / "b")]) == 0
    file = tmp_path / "b" / "predictions.jsonl"
    file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2])
    assert run.main([*CLASSIFY, "--out", str(tmp_path / "b")]) == 0
    assert without_seconds(tmp_path / "a") == without_seconds(tmp_path / "b")
    scores = [json.loads((tmp_path / f / "scores.json").read_text()) for f in "ab"]
    assert scores[0] == scores[1] and scores[0]["n"] > 3 and scores[0]["failed"] == 0
    assert {"report.md", "run.json", "gt.json"} <= {p.name for p in (tmp_path / "b").iterdir()}
    assert run.main([*CLASSIFY, "--seed", "5", "--out", str(tmp_path / "a")]) == 2
    assert "name another folder" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, launcher in (
        ("one", [sys.executable, "-m"]),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]),
    ):
        command = [*launcher, "eval.run", *CLASSIFY, "--out", str(tmp_path / name)]
        subprocess.run(command, check=True, cwd=ROOT, env=environment, timeout=300)
    assert without_seconds(tmp_path / "one") == without_seconds(tmp_path / "two")
    one, two = ((tmp_path / f / "scores.json").read_text() for f in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["region_classification", "--data", "nowhere.json"], "a file, or shapes"),
        (["pope", "--data", __file__], "folder of the pictures"),
        (["pope", "--data", "shapes", "--limit", "0"], "--limit 0"),
        (["pope", "--data", "shapes", "--batch-size", "0"], "--batch-size 0"),
        ([*CLASSIFY, "--ask", "all", "--protocol", "scored"], "author-script"),
    ],
)
def test_bad_arguments_are_one_sentence_and_exit_code_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("eval: ") and says in error and "\n" not in error
