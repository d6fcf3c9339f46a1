"""A run that is killed, an endpoint that dies, a disk that is full: nothing lost, nothing asked twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rgpt import cli
from rgpt.annotate.endpoint_answers import check_answer
from rgpt.annotate.questions import make_questions
from rgpt.errors import InputError
from rgpt.journal import read_journal
from tests.annotate import folders
from tests.data_recipes.recap.fake_endpoint import FakeEndpoint
from tests.eval.photo_folders import COLOURS, write_folder

PICTURES = 6


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TQDM_DISABLE", "1")


def run(*arguments: Any) -> int:
    return cli.main(["annotate", *map(str, arguments)])


def source_of(folder: Path, pictures: int = PICTURES) -> Path:
    return write_folder(folder, range(1, pictures + 1)) / "instances_test.json"


def answered(out: Path, name: str = "journal.jsonl") -> Counter[str]:
    return Counter(r["key"] for r in read_journal(out / name) if r["kind"] == "object")


def killed_runs(kills: int, arguments: list[str], journal: Path, preload: list[str]) -> int:
    """Run again and again, killed after some lines more; how many runs were killed."""
    rng, done = random.Random(kills), 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)  # imported once, in the process that the runs are forked from
    while done < kills:
        before = whole_lines(journal)
        process = context.Process(target=cli.main, args=(["annotate", *arguments],))
        process.start()
        until = before.count(b"\n") + rng.randint(2, 8)
        while process.is_alive() and whole_lines(journal).count(b"\n") < until:
            time.sleep(0.002)
        process.kill()
        process.join()
        assert whole_lines(journal).startswith(before)
        if process.exitcode == 0:
            break
        done += 1
    return done


def whole_lines(journal: Path) -> bytes:
    data = journal.read_bytes() if journal.exists() else b""
    return data[: data.rfind(b"\n") + 1]


@pytest.mark.slow
def test_our_model_killed_ten_times(tmp_path: Path) -> None:
    source, out = source_of(tmp_path / "in", 14), tmp_path / "out"
    arguments = [str(source), "--model", "tiny", "--ask", "name", "--ask", "caption", "--out", str(out)]
    assert killed_runs(10, arguments, out / "journal.jsonl", ["rgpt.annotate.run", "rgpt.chat"]) == 10
    assert run(*arguments) == 0
    assert set(answered(out).values()) == {1} and len(answered(out)) == 14 * 7


def json_reply(question: str, body: dict[str, Any]) -> str:
    return json.dumps({"caption": f"A thing, {len(body['messages'])}.", "name": "dog"})


def endpoint_arguments(source: Path, out: Path, url: str) -> list[str]:
    asked = ["--ask", "name", "--ask", "caption", "--tries", "2", "--timeout", "60"]
    return [str(source), "--model", f"openai:fake@{url}", *asked, "--out", str(out)]


def test_an_endpoint_killed_ten_times(tmp_path: Path) -> None:
    source, out = source_of(tmp_path / "in", 14), tmp_path / "out"
    with FakeEndpoint(reply=json_reply) as endpoint:
        arguments = [*endpoint_arguments(source, out, endpoint.url), "--concurrency", "2"]
        kills = killed_runs(10, arguments, out / "journal.jsonl", ["openai", "rgpt.annotate.run"])
        assert run(*arguments) == 0
    assert kills == 10 and len(answered(out)) == 14 * 7 and set(answered(out).values()) == {1}
    records = list(read_journal(out / "journal.jsonl"))
    paid = Counter(r["key"] for r in records if r["kind"] == "answer")
    assert set(paid.values()) == {1}  # an answer that reached the journal was not asked for again
    assert len(endpoint.requests) <= len(paid) + 2 * kills  # what was in flight


def test_an_endpoint_that_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = source_of(tmp_path / "in"), tmp_path / "out"
    plan = ("", "", "", *["500"] * 40)
    with FakeEndpoint(plan=plan, reply=json_reply) as endpoint:
        arguments = [*endpoint_arguments(source, out, endpoint.url), "--concurrency", "1"]
        assert run(*arguments) == 3
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("Stopped, ") and told.endswith(
            "3 of 42 objects are answered; the same command goes on."
        )
        endpoint.plan.clear()
        asked = len(endpoint.requests)
        assert run(*arguments) == 0
        assert len(endpoint.requests) == asked + 39
    assert "tokens were spent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("replies", "value", "problem"),
    [
        (["no", '```json\n{"caption": "x", "name": "Dog"}\n```'], "dog", ""),
        (
            ['{"caption": "x"}', '{"caption": "x", "name": "unicorn"}'],
            None,
            "asked twice: name: expected one of",
        ),
    ],
)
def test_an_answer_that_is_no_answer_is_asked_again_once(
    tmp_path: Path, replies: list[str], value: str | None, problem: str
) -> None:
    said = iter(replies * 7)
    with FakeEndpoint(reply=lambda question, body: next(said)) as endpoint:
        arguments = endpoint_arguments(source_of(tmp_path / "in", 1), tmp_path / "out", endpoint.url)
        assert run(*arguments, "--concurrency", "1") == 0
        assert len(endpoint.requests) == 14
    rows = [json.loads(line) for line in (tmp_path / "out/result/objects.jsonl").read_text().splitlines()]
    assert [row["answers"]["name"]["value"] for row in rows] == [value] * 7
    assert all(row["answers"]["name"].get("problem", "").startswith(problem) for row in rows)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"caption": "x", "name": "cat", "more": 1}', '{"caption": " ", "name": "cat"}',
     '{"caption": "x", "name": true}', '{"caption": 3, "name": "cat"}'],
)  # fmt: skip
def test_what_is_no_answer(text: str) -> None:
    with pytest.raises(InputError):
        check_answer(text, make_questions(["caption", "name"], ["cat", "dog"]))


def test_a_few_first_then_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = source_of(tmp_path / "in", 3), tmp_path / "out"
    arguments = [source, "--model", "tiny", "--ask", "name", "--names", ",".join(COLOURS), "--out", out]
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert run(*arguments, "--try", "5") == 3
    assert len(answered(out)) == 5 and (out / "try.html").read_text().count("data:image/jpeg") == 5
    assert not (out / "result").exists()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert run(*arguments, "--try", "5", "--agree", "tiny", "--processes", "2") == 0
    assert set(answered(out).values()) == {1} and len(answered(out)) == 21
    assert answered(out, "journal-agree.jsonl") == answered(out)
    assert "Two models differ on 0." in capsys.readouterr().out
    assert run(*arguments, "--ask", "caption") == 2
    assert "begun with questions" in capsys.readouterr().err


def test_crops_and_the_mean_of_both(tmp_path: Path) -> None:
    source, found = source_of(tmp_path / "in", 1), {}
    for context in ("image", "crop", "both"):
        out = tmp_path / context
        assert run(source, "--model", "tiny", "--ask", "name", "--context", context, "--out", out) == 0
        rows = [json.loads(line) for line in (out / "result/objects.jsonl").read_text().splitlines()]
        found[context] = [dict(row["answers"]["name"]["shares"]) for row in rows]
    assert found["image"] != found["crop"]
    for image, crop, both in zip(found["image"], found["crop"], found["both"], strict=True):
        name = max(both, key=lambda key: both[key])
        assert both[name] == pytest.approx((image.get(name, 0) + crop.get(name, 0)) / 2, abs=1e-5)


def limited_run(arguments: list[str], limit: int, told: Path) -> None:
    os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    raise SystemExit(cli.main(["annotate", *arguments]))


@pytest.mark.parametrize("limit", [3000, 20_000])
def test_a_full_disk(tmp_path: Path, limit: int) -> None:
    """In the journal, and in the result."""
    source, out = source_of(tmp_path / "in", 2), tmp_path / "out"
    arguments = [str(source), "--model", "tiny", "--ask", "name", "--out", str(out)]
    process = multiprocessing.get_context("forkserver").Process(
        target=limited_run, args=(arguments, limit, tmp_path / "told")
    )
    process.start()
    process.join()
    told = (tmp_path / "told").read_text().strip().splitlines()[-1]
    assert process.exitcode == 2 and "cannot be written (File too large)" in told and told.count(". ") == 0
    before = answered(out)
    assert run(*arguments) == 0
    assert (
        len(answered(out)) == 14 and set(answered(out).values()) == {1} and set(before) <= set(answered(out))
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["empty", "--ask", "name"], "annotations or pictures, got neither"),
        (["nowhere", "--ask", "name"], "nothing at this path"),
        (["in/images", "--ask", "name"], "--proposals to find some"),
        (["file.txt", "--ask", "name"], "a .csv, .xml or .json file"),
        (["in/instances.json", "--ask", "name", "--format", "dota"], "invalid choice"),
        (["in/instances.json"], "ask something"),
        (["in/instances.json", "--ask", "attributes", "--schema", "file.txt"], "a JSON Schema"),
        (["in/instances.json", "--ask", "name", "--proposals", "rpn:x"], "a folder of pictures"),
        (["in/instances.json", "--ask", "caption", "--context", "both"], "ranked questions alone"),
        (["in/instances.json", "--ask", "name", "--images", "empty"], "check --images"),
        (["in/instances.json", "--ask", "name", "--model", "openai:m@nowhere://"], "correct the address"),
        (["in/instances.json", "--ask", "name", "--model", "no/such/folder"], "no/such/folder"),
    ],
)
def test_one_sentence(
    tmp_path: Path,
    arguments: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders.coco(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("no schema")
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, *([] if "--model" in arguments else ["--model", "tiny"]), "--out", "out") == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not Path("out").exists()


def test_regions_that_are_proposed(tmp_path: Path) -> None:
    folders.write_picture(tmp_path / "in")
    boxes = {"a.png": [{"box": [10, 12, 31, 40], "score": 0.9}, {"box": [40, 10, 70, 50], "score": 0.8}]}
    (tmp_path / "found.json").write_text(json.dumps(boxes))
    arguments = [tmp_path / "in", "--proposals", f"json:{tmp_path / 'found.json'}", "--model", "tiny"]
    assert run(*arguments, "--ask", "name", "--out", tmp_path / "out") == 0
    value = json.loads((tmp_path / "out/result/annotations.json").read_text())
    assert [entry["bbox"] for entry in value["annotations"]] == [[10, 12, 21, 28], [40, 10, 30, 40]]
    assert all(entry["names"] for entry in value["annotations"])
    assert run(*arguments, "--most", "1", "--ask", "name", "--out", tmp_path / "out") == 2
