"""The judge client against fakes: what is asked, how answers are read, stopping and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval import judge, judging
from eval.judging import chosen, two_marks
from eval.score import score_task
from rgpt.backends import BackendError, Completion
from rgpt.errors import InputError
from tests.data_recipes.recap.fake_endpoint import FakeEndpoint

QA = {
    "5": [
        {"question": "Colour?", "choices": [["Red.", 1], ["Not said.", 0]], "type": "positive"},
        {"question": "Boats?", "choices": [["Boats.", -1], ["No boats.", 1]], "type": "negative"},
    ],
    "6": [{"question": "Shape?", "choices": [["Round.", 1], ["Other.", -1]], "type": "positive"}],
}


class FakeBackend:
    """Answers by looking for words in the prompt; fails as often as `failures` says."""

    name, concurrent = "openai:fake", True

    def __init__(self, answers: dict[str, str], failures: list[BackendError] | None = None) -> None:
        self.answers, self.failures, self.asked = answers, failures or [], []
        self.changed: dict[str, str | None] = {}

    def complete(self, messages: list[dict[str, Any]], **options: Any) -> Completion:
        self.asked.append((messages[0]["content"], options))
        if self.failures:
            raise self.failures.pop(0)
        text = next(v for k, v in self.answers.items() if k in messages[0]["content"])
        return Completion(text, 1, 1, "stop")


GOOD = {"Is it likely": "A. Yes", "Colour?": "A. Red.", "Boats?": "B", "Shape?": "(a) Round"}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    (tmp_path / "qa.json").write_text(json.dumps(QA))
    (tmp_path / "class_names.json").write_text(json.dumps({"5": "taco", "6": "drum"}))
    (tmp_path / "said.json").write_text(json.dumps({"5": "a red taco", "6": "a drum"}))
    return tmp_path


def run(bench: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    monkeypatch.setattr(judge, "open_backend", lambda spec, **where: backend)
    files = [
        "--gt",
        str(bench),
        "--predictions",
        str(bench / "said.json"),
        "--out",
        str(bench / "judged.jsonl"),
    ]
    return judge.main(["dlc_bench", *files, "--judge", "openai:fake", *more])


def scored(bench: Path) -> dict[str, Any]:
    return score_task("dlc_bench", bench, bench / "judged.jsonl")


def test_a_judge_that_finds_all_right(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend(GOOD)
    assert run(bench, backend, monkeypatch) == 0
    scores = scored(bench)
    assert (scores["pos"], scores["neg"], scores["n"], scores["n_neg"]) == (1, 1, 2, 1)
    assert len(backend.asked) == 5 and all(o["temperature"] == 0 for _, o in backend.asked)
    taco = next(text for text, _ in backend.asked if "Is it likely" in text and "taco" in text)
    assert "a red taco" in taco and "A. Yes\nB. No" in taco


def test_no_recognition_caps_every_question_at_zero(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(bench, FakeBackend({**GOOD, "Is it likely": "B. No"}), monkeypatch)
    assert (scored(bench)["pos"], scored(bench)["neg"], scored(bench)["recognised"]) == (0, 0, 0)


def test_stopped_runs_go_on_and_judges_are_not_mixed(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = [BackendError("rate limit", "slow down", retry_after=0.01), BackendError("account", "no such key")]
    assert run(bench, FakeBackend(GOOD, busy), monkeypatch, "--workers", "1") == 2
    assert "run again to go on" in capsys.readouterr().err
    out = bench / "judged.jsonl"
    assert run(bench, FakeBackend(GOOD), monkeypatch) == 0
    whole = out.read_bytes()
    first, last = whole.splitlines(keepends=True)
    out.write_bytes(first + last[: len(last) // 2])  # killed while writing
    backend = FakeBackend(GOOD)
    assert run(bench, backend, monkeypatch) == 0
    assert len(backend.asked) in (2, 3), "only the item that was lost"
    assert sorted(out.read_bytes().splitlines()) == sorted(whole.splitlines())
    backend.name = "openai:other"
    assert run(bench, backend, monkeypatch) == 2
    assert "the judge openai:other" in capsys.readouterr().err


def test_a_failed_item_is_not_shown_to_the_judge(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": "5", "failed": "out of memory"}, {"id": "6", "answer": "a round drum"}]
    (bench / "said.json").write_text(json.dumps(rows))
    backend = FakeBackend(GOOD)
    assert run(bench, backend, monkeypatch) == 0
    assert len(backend.asked) == 2
    assert (scored(bench)["pos"], scored(bench)["failed"]) == (0.5, 1)


def test_an_unreadable_judge_is_asked_again_then_recorded(
    bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend({**GOOD, "Shape?": "I would rather not."})
    assert run(bench, backend, monkeypatch) == 0
    shape = [options for text, options in backend.asked if "Shape?" in text]
    assert [o["temperature"] > 0 for o in shape] == [False, True, True] and len(
        {o["seed"] for o in shape}
    ) == 3
    assert scored(bench)["failed"] == 1


def test_a_judge_that_takes_no_temperature(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As reasoning models behave: greedy cannot be had, which the rows say, for it changes scores."""

    def refuse(request: dict[str, Any]) -> dict[str, Any] | None:
        if "max_tokens" in request:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return {"error": {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}}
        if request.get("temperature", 1) != 1:
            return {"error": {"message": "Only the default (1) value is supported.", "param": "temperature"}}
        return None

    changes = {"max_tokens": "max_completion_tokens", "temperature": None}
    with FakeEndpoint(refuse=refuse, reply=lambda question, body: "A") as endpoint:
        files = ["--gt", str(bench), "--predictions", str(bench / "said.json")]
        out = bench / "judged.jsonl"
        judged = ["dlc_bench", *files, "--judge", f"openai:mini@{endpoint.url}", "--out", str(out)]
        assert judge.main([*judged, "--workers", "1"]) == 0
        said = capsys.readouterr()
        assert said.err.count("temperature is left out") == said.err.count("does not take max_tokens") == 1
        assert "temperature is left out" in said.out
        rows = out.read_text().splitlines(keepends=True)
        assert [json.loads(row)["judge_parameters"] for row in rows] == [changes] * 2
        assert len(endpoint.requests) == 5 + 2
        out.write_text(rows[0])
        endpoint.requests.clear()
        assert judge.main([*judged, "--workers", "1"]) == 0  # goes on as it was asked before
        assert not any({"temperature", "max_tokens"} & request.keys() for request in endpoint.requests)
    assert scored(bench)["n"] == 2


def test_answers_of_another_benchmark(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (bench / "said.json").write_text('{"77": "a boat"}')
    assert run(bench, FakeBackend(GOOD), monkeypatch) == 2
    assert "another split" in capsys.readouterr().err and not (bench / "judged.jsonl").exists()


CHOICES = [["Red.", 1], ["Red and blue.", 0], ["Green.", -1]]


@pytest.mark.parametrize(
    "answer, position",
    [
        ("A", 0), ("a.", 0), ("B. Red and blue.", 1), ("(C) Green", 2), ("**B**", 1), ("Z", None),
        ("A green one", 2),
                ("The answer is green.", 2), ("Red and blue.", None), ("", None), ("C: because", 2),
    ],
)  # fmt: skip
def test_choices_are_read_by_letter_or_words(answer: str, position: int | None) -> None:
    assert chosen(answer, CHOICES) == position


@pytest.mark.parametrize(
    "answer, marks",
    [
        ("8 7\nBecause …", (8, 7)), ("\n\n9.5 4.0", (9.5, 4)), ("8, 7", (8, 7)), ("8", None), ("11 3", None),
        ("7 6 5", None), ("none", None), ("", None),
    ],
)  # fmt: skip
def test_marks(answer: str, marks: tuple[float, float] | None) -> None:
    assert two_marks(answer) == marks


def test_ferret_bench_on_the_published_questions(shared_data: Path) -> None:
    questions, judge_one = judging.ferret_judge(shared_data / "ferret_bench" / "refer_caption")
    assert len(questions) == 20 and questions.alias("4") == "refer_desc/4" and questions.alias("x") == "x"
    prompts: list[str] = []

    def ask(text: str, retry: int) -> str:
        prompts.append(text)
        return "8 6\nfine"

    row = judge_one("refer_desc/4", "A red sign, $5 off.", None, ask)
    assert row["tuple"] == [8, 6] and row["question_id"] == "4"
    assert (
        prompts[0].index("[Assistant 1]")
        < prompts[0].index("A red sign, $5 off.")
        < prompts[0].index("1 to 10")
    )
    rows = [judge_one(id_, "x", None, ask) for id_ in questions]
    scores = score_task("ferret_bench", shared_data / "ferret_bench" / "refer_caption", rows)
    assert (scores["relative_score"], scores["n"]) == (75, 20)


def test_a_missing_rule_is_named(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "rule.json").write_text("{}")
    with pytest.raises(InputError, match="the rule of refer_desc"):
        judging.ferret_judge(shared_data / "ferret_bench" / "refer_caption", tmp_path / "rule.json")


@pytest.fixture
def osprey(tmp_path: Path) -> Path:
    """Two questions about one picture, in the shape of Osprey's description files."""
    own = [{"question_id": n, "image": "a.jpg", "category": "description"} for n in (0, 1)]
    files = {
        "questions.json": [row | {"text": f"Describe <region> {row['question_id']}."} for row in own],
        "answers.json": [row | {"text": f"reference {row['question_id']}"} for row in own],
        "prompt.json": [{"question_id": 0, "image": "a.jpg", "prompt": "chair: [0.1,0.2,0.3,0.4]"}],
        "rule.json": {"description": {"role": "Assistant", "prompt": "two values please"}},
        "said.json": [row | {"text": f"a chair {row['question_id']}"} for row in own],
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    return tmp_path


def test_osprey_descriptions_are_judged_and_scored(osprey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend({"reference 0": "8 6\nfine", "reference 1": "9 3"})
    monkeypatch.setattr(judge, "open_backend", lambda spec, **where: backend)
    files = [
        "--gt",
        str(osprey),
        "--predictions",
        str(osprey / "said.json"),
        "--out",
        str(osprey / "out.jsonl"),
    ]
    command = ["osprey_description", *files, "--judge", "openai:fake"]
    assert judge.main(command) == 0
    scores = score_task("osprey_description", osprey, osprey / "out.jsonl")
    assert (scores["relative_score"], scores["n"]) == (pytest.approx(100 * 4.5 / 8.5), 2)
    text = next(text for text, _ in backend.asked if "reference 1" in text)
    parts = ["[Context]\nchair", "[Question]\nDescribe", "reference 1", "a chair 1", "two values please"]
    assert sorted(parts, key=text.index) == parts
    assert judge.main([*command, "--images", str(osprey)]) == 2, "its judge sees no pictures"


def test_osprey_files_that_do_not_belong_together(osprey: Path) -> None:
    (osprey / "answers.json").write_text(json.dumps([{"question_id": 0, "text": "x"}]))
    with pytest.raises(InputError, match=r"answers\.json: expected question_id 1"):
        judging.osprey_judge(osprey)


MDVP = [
    {"image_name": "a.png", "question": "Describe each.", "question_id": 7, "dataset_name": "natural_box",
     "gt_answers": "<Region 1>:a cat\n<Region 2>:a dog", "bbox": [[2, 2, 20, 20], [30, 10, 20, 30]]},
    {"image_name": "a.png", "question": "Describe each.", "question_id": 7, "dataset_name": "natural_box",
     "gt_answers": "<Mark 1>:a cat", "points": [[5, 5]]},
]  # fmt: skip


@pytest.fixture
def mdvp(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), "white").save(tmp_path / "a.png")
    (tmp_path / "natural_box.json").write_text(json.dumps(MDVP))
    results = [
        {"image_name": q["image_name"], "question_id": 7, "question": q["question"]}
        | {"answer": q["gt_answers"], "prediction": f"said {n}"}
        for n, q in enumerate(MDVP)
    ]
    (tmp_path / "said.json").write_text(json.dumps(results))
    return tmp_path


class Looking(FakeBackend):
    """Keeps the pictures that it was shown."""

    def complete(self, messages: list[dict[str, Any]], **options: Any) -> Completion:
        image, text = messages[0]["content"]
        self.asked.append((text["text"], image["image"]))
        return Completion("6 9" if "said 0" in text["text"] else "5 5", 1, 1, "stop")


def test_mdvp_is_judged_by_the_marked_picture(
    mdvp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = Looking({})
    monkeypatch.setattr(judge, "open_backend", lambda spec, **where: backend)
    gt = str(mdvp / "natural_box.json")
    files = ["--gt", gt, "--predictions", str(mdvp / "said.json"), "--out", str(mdvp / "out.jsonl")]
    command = ["mdvp_bench", *files, "--judge", "openai:fake"]
    assert judge.main(command) == 2
    assert "--images: expected the folder" in capsys.readouterr().err
    assert judge.main([*command, "--images", str(mdvp)]) == 0
    scores = score_task("mdvp_bench", gt, mdvp / "out.jsonl")
    assert (scores["n"], scores["relative_score"]) == (2, pytest.approx(100 * 7 / 5.5))
    assert all(picture.getcolors() != [(64 * 48, (255, 255, 255))] for _, picture in backend.asked)
    assert "It is a photograph." in backend.asked[0][0] and "<Region 2>:a dog" in "".join(
        text for text, _ in backend.asked
    )


def test_mdvp_results_of_another_file(mdvp: Path) -> None:
    questions, _ = judging.mdvp_judge(mdvp / "natural_box.json", images=mdvp)
    rows = json.loads((mdvp / "said.json").read_text())
    rows[1]["answer"] = "a horse"
    (mdvp / "said.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"row 2, answer: .* it may be of another file"):
        judge.read_answers("mdvp_bench", mdvp / "said.json", questions)


def test_the_published_files_of_both(shared_data: Path) -> None:
    questions, judge_one = judging.osprey_judge(shared_data / "osprey_description")
    prompts: list[Any] = []
    row = judge_one(
        next(iter(questions)), "A chair.", None, lambda text, retry: prompts.append(text) or "7 5"
    )
    assert row["tuple"] == [7, 5] and "rattan" in prompts[0]
    folder = shared_data / "mdvp_bench" / "natural_brief_caption"
    questions, judge_one = judging.mdvp_judge(
        folder / "natural_brief_caption_box.json", images=folder / "images"
    )
    judge_one(next(iter(questions)), "<Region 1>:a bus", None, lambda p, retry: prompts.append(p) or "7 5")
    assert [part["type"] for part in prompts[1]] == ["image", "text"]
