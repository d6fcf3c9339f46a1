"""The runner with recipes of ten lines: order, workers, limit, guard, interruption, what is counted."""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_recipes import runner
from data_recipes.runner import Made, Recipe, Record, Source
from rgpt.data.schema import QuestionAnswer, Sample
from rgpt.errors import InputError
from rgpt.formats.grouping import Buckets


@dataclass(frozen=True)
class Numbers:
    """Record n gives n % 3 samples with a random word each; every seventh is refused."""

    def __call__(self, record: Record, rng: random.Random) -> Made:
        n = record.content
        made = Made(regions_read=n)
        made.drop_region("not wanted", n)
        if n % 7 == 6:
            raise InputError(f"record {n} is bad.")
        for k in range(n % 3):
            sample = Sample(f"{n}-{k}", None, (), (QuestionAnswer("q", str(rng.random())),))
            made.add(sample, "task")
        return made


def numbers(count: int, pulled: list[int] | None = None) -> Recipe:
    def open_source(options: argparse.Namespace, scratch: Path) -> Source:
        def records() -> Iterator[Record]:
            for n in range(count):
                if pulled is not None:
                    pulled.append(n)
                yield Record(str(n), None, (f"file:{n}",), n)

        return Source(records(), Numbers(), facts={"count": count})

    return Recipe("numbers", "Numbers.\n\nMore.", lambda parser: None, open_source)


def run(recipe: Recipe, out: Path, *arguments: str) -> dict[str, Any]:
    options = runner.build_parser(recipe).parse_args([*arguments, "--out", str(out)])
    report = runner.run(recipe, options).to_json()
    assert json.loads((out / "report.json").read_text()) == {
        **report,
        "wall_seconds": pytest.approx(0, abs=99),
    }
    return {key: value for key, value in report.items() if key != "wall_seconds"}


def test_workers_change_nothing(tmp_path: Path) -> None:
    one = run(numbers(300), tmp_path / "one")
    two = run(numbers(300), tmp_path / "two", "--workers", "2")
    assert one == two and one["read"] == 300 and one["facts"] == {"count": 300}
    for name in ("samples.jsonl", "contact_sheet.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_seed_changes_choices_only(tmp_path: Path) -> None:
    reports = [run(numbers(50), tmp_path / seed, "--seed", seed) for seed in ("1", "2")]
    texts = [(tmp_path / seed / "samples.jsonl").read_text() for seed in ("1", "2")]
    assert texts[0] != texts[1]
    assert reports[0]["kept"] == reports[1]["kept"] and reports[0]["dropped"] == reports[1]["dropped"]


def test_what_is_counted(tmp_path: Path) -> None:
    report = run(numbers(21), tmp_path / "out")
    refused = [6, 13, 20]
    kept = [n for n in range(21) if n not in refused]
    assert report["kept"] == sum(n % 3 for n in kept) == report["tasks"]["task"]
    assert report["dropped"] == {
        "nothing left to ask about": sum(n % 3 == 0 for n in kept),
        "refused by the sample type": 3,
    }
    assert report["regions_read"] == sum(kept) == report["regions_dropped"]["not wanted"]
    assert report["repaired"] == {"refused: record 6 is bad.": 1}  # one example says enough


@pytest.mark.parametrize("workers", ["1", "2"])
def test_limit_is_a_beginning(tmp_path: Path, workers: str) -> None:
    run(numbers(300), tmp_path / "all")
    report = run(numbers(300), tmp_path / "some", "--limit", "9", "--workers", workers)
    lines = (tmp_path / "some" / "samples.jsonl").read_text().splitlines()
    assert lines == (tmp_path / "all" / "samples.jsonl").read_text().splitlines()[:9]
    assert report["kept"] == 9 == report["tasks"]["task"]
    assert report["read"] < 20


def test_a_fast_reader_waits_for_its_workers(tmp_path: Path) -> None:
    pulled: list[int] = []
    run(numbers(10_000, pulled), tmp_path / "out", "--workers", "2", "--limit", "3")
    assert len(pulled) <= 10 * runner.BATCH  # ten thousand if everything were read ahead


def test_excluded_pictures_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# a comment\nfile:4\n\nfolder/5\n")
    report = run(numbers(12), tmp_path / "out", "--exclude-images", str(tmp_path / "list.txt"))
    assert report["dropped"]["in --exclude-images"] == 2
    assert not {"4-0", "5-0", "5-1"} & {
        json.loads(line)["id"] for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    }


def test_an_empty_or_missing_list_guards_nothing_and_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for name in ("empty.txt", "none.txt"):
        with pytest.raises(InputError, match="eval_pictures"):
            run(numbers(3), tmp_path / "out", "--exclude-images", str(tmp_path / name))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "--seed: expected at least 0"),
        (["--workers", "0"], "--workers: expected at least 1"),
        (["--limit", "0"], "--limit: expected at least 1"),
    ],
)
def test_bad_options_are_refused_before_any_work(tmp_path: Path, arguments: list[str], message: str) -> None:
    pulled: list[int] = []
    with pytest.raises(InputError, match=message):
        run(numbers(3, pulled), tmp_path / "out", *arguments)
    assert not pulled and os.listdir(tmp_path) == []


def test_a_run_that_keeps_nothing_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(numbers(1), ["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "1 nothing left to ask about" in said
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "workers"),
    [
        (KeyboardInterrupt, "1"),
        (InputError("cut off"), "1"),
        (OSError("full"), "1"),
        (KeyboardInterrupt, "2"),
    ],
)
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, error: BaseException, workers: str) -> None:
    def open_source(options: argparse.Namespace, scratch: Path) -> Source:
        def records() -> Iterator[Record]:
            (scratch / "bucket").write_text("half")
            yield from (Record(str(n), None, (), n) for n in range(100))
            raise error

        return Source(records(), Numbers())

    recipe = Recipe("broken", "Broken.", lambda parser: None, open_source)
    with pytest.raises((KeyboardInterrupt, InputError, OSError)):
        run(recipe, tmp_path / "out", "--workers", workers)
    assert os.listdir(tmp_path) == []


def test_a_missing_picture_is_only_noticed_when_asked(tmp_path: Path) -> None:
    def open_source(options: argparse.Namespace, scratch: Path) -> Source:
        return Source([Record("1", str(tmp_path / "none.png"), (), 1), Record("2", None, (), 2)], Numbers())

    recipe = Recipe("missing", "Missing.", lambda parser: None, open_source)
    assert run(recipe, tmp_path / "a")["kept"] == 3
    report = run(recipe, tmp_path / "b", "--skip-missing-pictures")
    assert report["kept"] == 2 and report["dropped"] == {"picture file is missing": 1}


def test_groups_are_the_same_from_any_number_of_buckets(tmp_path: Path) -> None:
    rng = random.Random(0)
    pictures = [f"p {n}" for n in range(38)] + ['"p\t1', "p\n1"]
    told = [(rng.choice([*pictures, "orphan"]), n) for n in range(500)]
    found = []
    for total in (0, 64 << 20, 5 * (64 << 20), 10**15):
        folder = tmp_path / str(total)
        folder.mkdir()
        buckets = Buckets(folder, total)
        for key, n in told[:250]:
            buckets.add_annotation(key, f'{{"n":\n{n}}}')
        for key in [*pictures, "p 7"]:
            buckets.add_picture(key, "{}")
        for key, n in told[250:]:
            buckets.add_annotation(key, f'{{"n":\n{n}}}')
        groups = list(buckets.groups())
        assert [len(group.pictures) for group in groups if group.key == "p 7"] == [2]
        if total <= 64 << 20:
            assert [group.key for group in groups] == [*pictures, "orphan"]
        found.append({group.key: [json.loads(text)["n"] for text in group.annotations] for group in groups})
        assert [group.pictures for group in groups if group.key == "orphan"] == [[]]
        assert list(buckets.groups()) == groups  # as often as needed
    assert all(one == found[0] for one in found)
    assert found[0] == {key: [n for other, n in told if other == key] for key in [*pictures, "orphan"]}
