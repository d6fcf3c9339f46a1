"""What a judge is asked, and how its words become verdicts: DLC-Bench's options, Ferret-Bench's two marks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

from eval.layouts.files import read_json, read_text
from eval.layouts.judged import read_dlc_questions, read_ferret_questions
from eval.metrics.judged import DlcVerdict
from rgpt.errors import InputError

Ask = Callable[[str, int], str]
JudgeOne = Callable[[str, str, str | None, Ask], dict[str, Any]]

READINGS = 3
"""How often a judge is asked before its answer counts as unreadable."""

DLC_INSTRUCTIONS = """\
Below is a description of one object in a picture that you cannot see. Answer the multiple-choice question
about it from the description alone. Give the letter and the words of exactly one choice, without explanation.
Where no choice fits exactly, give the closest one.

Description:
$description

Question:
$question
$choices
"""
"""Our wording [D]; give the benchmark's own with --instructions to compare with published scores."""

FERRET_LAYOUT = """\
[Context]
$context

[Question]
$question

[Assistant 1]
$reference
[End of Assistant 1]

[Assistant 2]
$answer
[End of Assistant 2]

[System]
$rule
"""


class Questions(dict[str, Any]):
    """Questions by id. `alias` finds the id that a predictions file may have written shorter."""

    def alias(self, id_: str) -> str:
        whole = [known for known in self if known.rpartition("/")[2] == id_]
        return whole[0] if len(whole) == 1 else id_


def recognition_question(name: str) -> dict[str, Any]:
    """The question that DLC-Bench puts first, from the class's name (`class_names.json`)."""
    text = f"Is it likely that the object in the description is a {name} or an object of a similar type?"
    text += " Again, It does not have to be an exact match."
    return {"question": text, "choices": [["Yes", 1], ["No", 0]], "type": "recognition"}


def chosen(answer: str, choices: list[Any]) -> int | None:
    """The position of the choice that an answer names by its letter or its words; None for neither."""
    text = answer.strip()
    letter = re.match(r"\W*([A-Za-z])(?:\W*$|[.):,*])", text)
    if letter and (position := ord(letter.group(1).upper()) - ord("A")) in range(len(choices)):
        return position
    words = [n for n, choice in enumerate(choices) if choice[0].lower().rstrip(".") in text.lower()]
    return words[0] if len(words) == 1 else None


def two_marks(answer: str) -> tuple[float, float] | None:
    """The two numbers on the first line that has any; None unless there are two from 1 to 10."""
    for line in answer.splitlines():
        numbers = [float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", line)]
        if numbers:
            two = len(numbers) == 2 and all(1 <= n <= 10 for n in numbers)
            return (numbers[0], numbers[1]) if two else None
    return None


def _reading(ask: Ask, text: str, read: Callable[[str], Any]) -> tuple[Any, str]:
    """The first answer that can be read, and its words; (None, last words) after `READINGS`."""
    said = ""
    for retry in range(READINGS):
        said = ask(text, retry)
        if (value := read(said)) is not None:
            return value, said
    return None, said


def dlc_judge(gt: Path | str, instructions: Path | str | None = None) -> tuple[Questions, JudgeOne]:
    """DLC-Bench: `gt` is the folder with `qa.json` and `class_names.json`. Raises InputError."""
    questions = read_dlc_questions(gt)
    names = {str(k): v for k, v in read_json(Path(gt) / "class_names.json").items()}
    if missing := [i for i in questions if i not in names]:
        raise InputError.about("class_names.json", f"the class of {missing[0]}", "none", "check the folder")
    template = Template(read_text(instructions) if instructions else DLC_INSTRUCTIONS)

    def judge_one(id_: str, description: str, failed: str | None, ask: Ask) -> dict[str, Any]:
        kinds = {t: [q for q in questions[id_] if q["type"] == t] for t in ("positive", "negative")}
        row: dict[str, Any] = {"pred": description, "recognition_result": False, "answers": []}
        verdicts: dict[str, list[float]] = {t: [0.0] * len(listed) for t, listed in kinds.items()}
        if failed is None:
            asked = [recognition_question(names[id_]), *kinds["positive"], *kinds["negative"]]
            found = []
            for question in asked:
                listed = "\n".join(f"{chr(65 + n)}. {c[0]}" for n, c in enumerate(question["choices"]))
                text = template.safe_substitute(
                    description=description, question=question["question"], choices=listed
                )
                position, said = _reading(ask, text, lambda a, q=question: chosen(a, q["choices"]))
                row["answers"].append(said)
                if position is None:
                    failed = f"the judge named no choice of {question['question'][:60]!r}"
                    break
                found.append(float(question["choices"][position][1]))
            else:
                row["recognition_result"] = found[0] == 1
                verdicts["positive"] = found[1 : 1 + len(kinds["positive"])]
                verdicts["negative"] = found[1 + len(kinds["positive"]) :]
        row |= {"positives": verdicts["positive"], "negatives": verdicts["negative"]}
        verdict = DlcVerdict(row["recognition_result"], tuple(row["positives"]), tuple(row["negatives"]))
        row["score_pos"], row["score_neg"] = verdict.scores()
        return row | ({"failed": failed} if failed else {})

    return Questions(questions), judge_one


def ferret_judge(gt: Path | str, instructions: Path | str | None = None) -> tuple[Questions, JudgeOne]:
    """Ferret-Bench: `gt` is one category's folder; `rule.json` lies beside it, or is `instructions`."""
    questions = read_ferret_questions(gt)
    rules = read_json(instructions or Path(gt).resolve().parent / "rule.json")
    for question in questions.values():
        if question["category"] not in rules:
            raise InputError.about("rule.json", f"the rule of {question['category']}", "none")

    def judge_one(id_: str, answer: str, failed: str | None, ask: Ask) -> dict[str, Any]:
        question = questions[id_]
        row = {"question_id": id_.rpartition("/")[2], "category": question["category"]}
        if failed is not None:
            return row | {"failed": failed}
        text = Template(FERRET_LAYOUT).safe_substitute(
            context=question["context"],
            question=question["question"],
            reference=question["answer"],
            answer=answer,
            rule=rules[question["category"]]["prompt"],
        )
        marks, said = _reading(ask, text, two_marks)
        if marks is None:
            return row | {"tuple": [-1, -1], "review": said}
        return row | {"tuple": list(marks), "review": said}

    return Questions(questions), judge_one


JUDGES: dict[str, Callable[..., tuple[Questions, JudgeOne]]] = {
    "dlc_bench": dlc_judge,
    "ferret_bench": ferret_judge,
}
