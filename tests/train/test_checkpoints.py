"""A checkpoint is there whole or not at all, whenever the machine stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgpt.errors import InputError
from rgpt.train import checkpoints, record


def make(folder: Path, step: int, **facts: object) -> Path:
    partial = checkpoints.staging(folder, step)
    (partial / "global_step").mkdir(parents=True)
    (partial / "weights").write_bytes(b"x" * 100)
    (partial / "global_step" / "shard").write_bytes(b"y" * 50)
    checkpoints.publish(partial, folder / f"checkpoint-{step}", step=step, **facts)
    return folder / f"checkpoint-{step}"


def test_the_newest_is_the_one_with_the_largest_step(tmp_path: Path) -> None:
    made = [make(tmp_path, step) for step in (90, 100, 9)]
    assert checkpoints.complete(tmp_path) == [made[2], made[0], made[1]]
    assert checkpoints.newest(tmp_path, 1) == made[1]
    assert checkpoints.newest(tmp_path / "nothing", 1) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "weights").unlink(),
        lambda path: (path / "weights").write_bytes(b"x" * 99),
        lambda path: (path / "global_step" / "shard").unlink(),
        lambda path: (path / checkpoints.MANIFEST).unlink(),
        lambda path: (path / checkpoints.MANIFEST).write_text('{"files": {'),
    ],
)
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: object) -> None:
    older, newer = make(tmp_path, 10), make(tmp_path, 20)
    damage(newer)  # type: ignore[operator]
    assert checkpoints.newest(tmp_path, 1) == older


def test_what_a_kill_leaves_is_nobodys_and_goes(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        make(tmp_path, step)
    (checkpoints.staging(tmp_path, 40)).mkdir()
    (tmp_path / ".old-checkpoint-5").mkdir()
    assert [path.name for path in checkpoints.complete(tmp_path)][-1] == "checkpoint-30"
    checkpoints.tidy(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-20", "checkpoint-30"]


def test_a_step_can_be_written_again(tmp_path: Path) -> None:
    make(tmp_path, 10)
    assert checkpoints.newest(tmp_path, 1) == make(tmp_path, 10)


def test_shards_belong_to_a_number_of_processes(tmp_path: Path) -> None:
    make(tmp_path, 10, sharded=True, processes=8)
    assert checkpoints.newest(tmp_path, 8) is not None
    with pytest.raises(InputError, match="expected 8 processes, as wrote it, got 2; start as many"):
        checkpoints.newest(tmp_path, 2)


def test_the_log_forgets_what_will_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for step in range(1, 6):
        record.append(path, {"step": step, "loss": 1 / step})
    path.write_text(path.read_text() + '{"step": 6, "lo')  # cut short by a kill
    assert [row["step"] for row in record.read_log(path)] == [1, 2, 3, 4, 5]
    record.cut_log(path, 3)
    assert [row["step"] for row in record.read_log(path)] == [1, 2, 3]
    record.cut_log(tmp_path / "none.jsonl", 3)


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    rows = [{"step": n, "loss": 1 / n} for n in range(1, 9)] + [
        {"step": 8, "held_out_loss": 0.2, "held_out_accuracy": 0.5}
    ]
    record.draw_curve(rows, tmp_path / "curve.png", "a title")
    record.draw_curve([], tmp_path / "empty.png", "nothing yet")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "empty.png"]


def test_versions_name_the_libraries() -> None:
    found = record.versions()
    assert found["torch"] and found["transformers"] and "revision" in found
