"""What a judge is asked, and how its words become verdicts: DLC-Bench's options; two marks for Ferret-Bench,
Osprey's descriptions and MDVP-Bench."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

from eval.layouts.fields import Ids, as_object, words_of
from eval.layouts.files import read_json, read_text
from eval.layouts.judged import (
    Reviewed,
    read_dlc_questions,
    read_ferret_questions,
    read_mdvp_questions,
    read_osprey_questions,
)
from eval.metrics.judged import DlcVerdict
from rgpt.backends import image_part, text_part
from rgpt.errors import InputError
from rgpt.regions import Box, Point, Region
from rgpt.regions.draw import draw_regions
from rgpt.regions.image import open_image

Ask = Callable[[str | list[dict[str, Any]], int], str]
"""Asks the judge: a text or the parts of a message, and how many answers to it could not be read."""
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

REVIEW_LAYOUT = """\
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
"""The order that LLaVA's review brought in and all three benchmarks keep [A]."""

MDVP_CONTEXTS = {
    "natural": "It is a photograph.",
    "ocr": "It is a picture with text in it, and the question is about what the text says.",
    "android": "It is a screenshot of a phone.",
    "web": "It is a screenshot of a web page.",
    "multipanel": "It is a figure of several panels.",
}
"""By the beginning of a domain's name; our wording [D], as is the rule."""

MDVP_RULE = """\
The two assistants answered the question above about the picture shown, in which the regions that the question
speaks of are marked with their numbers. Judge how helpful, relevant, correct and detailed each answer is.
Write on the first line nothing but two numbers from 1 to 10, the mark of Assistant 1 and that of Assistant 2,
with a blank between them; higher is better. Explain your marks on the lines below, and let neither the order
of the answers nor their length sway you.
"""


class Questions(dict[str, Any]):
    """Questions by id. `alias` finds the id that a predictions file may have written shorter."""

    def alias(self, id_: str) -> str:
        if id_ in self:
            return id_
        spelled = Ids(known.rpartition("/")[2] for known in self).spell(id_, "id")
        whole = [known for known in self if known.rpartition("/")[2] == spelled]
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


def _reading(ask: Ask, asked: str | list[dict[str, Any]], read: Callable[[str], Any]) -> tuple[Any, str]:
    """The first answer that can be read, and its words; (None, last words) after `READINGS`."""
    said = ""
    for retry in range(READINGS):
        said = ask(asked, retry)
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
    return _review(read_ferret_questions(gt), _rules(instructions, Path(gt).resolve().parent))


def osprey_judge(gt: Path | str, instructions: Path | str | None = None) -> tuple[Questions, JudgeOne]:
    """Osprey's descriptions: `gt` is the folder; `rule.json` lies in it, beside it, or is `instructions`."""
    folder = Path(gt).resolve()
    return _review(read_osprey_questions(gt), _rules(instructions, folder, folder.parent))


def mdvp_judge(
    gt: Path | str, instructions: Path | str | None = None, images: Path | str | None = None
) -> tuple[Questions, JudgeOne]:
    """MDVP-Bench: `gt` is the file of one domain. The judge sees the picture with its regions drawn and
    numbered, in our way [D]. `instructions` is a text that replaces `MDVP_RULE`."""
    questions = read_mdvp_questions(gt)
    if images is None or not Path(images).is_dir():
        raise InputError.about("--images", "the folder of the pictures", str(images), "the judge sees them")
    rule, folder = read_text(instructions) if instructions else MDVP_RULE, Path(images)
    for id_, question in questions.items():
        if not (folder / question["image"]).is_file():
            raise InputError.about(f"{gt}, {id_}, image_name", f"a picture in {folder}", question["image"])
        domain = next((v for k, v in MDVP_CONTEXTS.items() if question["category"].startswith(k)), "")
        question["context"] = domain
    rules = {question["category"]: rule for question in questions.values()}

    def picture(question: dict[str, Any]) -> list[dict[str, Any]]:
        regions: dict[int, Region] = {
            n: Point(*region) if len(region) == 2 else Box.from_coco(region)
            for n, region in enumerate(question["regions"], start=1)
        }
        return [image_part(draw_regions(open_image(folder / question["image"]), regions))]

    return _review(questions, rules, picture)


def _rules(instructions: Path | str | None, *folders: Path) -> dict[str, str]:
    """The rule of each category in `rule.json`. Raises InputError."""
    places = [Path(instructions)] if instructions else [folder / "rule.json" for folder in folders]
    path = next((place for place in places if place.is_file()), places[0])
    rules = as_object(read_json(path), str(path))
    return {name: words_of(rule, "prompt", f"{path}, {name}") for name, rule in rules.items()}


def _review(
    questions: Reviewed,
    rules: dict[str, str],
    picture: Callable[[dict[str, Any]], list[dict[str, Any]]] = lambda question: [],
) -> tuple[Questions, JudgeOne]:
    """Two marks for each answer, the reference's first; `picture` makes what is shown before the text."""
    for question in questions.values():
        if question["category"] not in rules:
            raise InputError.about("rule.json", f"the rule of {question['category']}", "none")

    def judge_one(id_: str, answer: str, failed: str | None, ask: Ask) -> dict[str, Any]:
        question = questions[id_]
        row = {"question_id": id_.rpartition("/")[2], "category": question["category"]}
        if failed is not None:
            return row | {"failed": failed}
        text = Template(REVIEW_LAYOUT).safe_substitute(
            context=question["context"],
            question=question["question"],
            reference=question["answer"],
            answer=answer,
            rule=rules[question["category"]],
        )
        shown = picture(question)
        marks, said = _reading(ask, [*shown, text_part(text)] if shown else text, two_marks)
        return row | {"tuple": [-1, -1] if marks is None else list(marks), "review": said}

    return Questions(questions), judge_one


JUDGES: dict[str, Callable[..., tuple[Questions, JudgeOne]]] = {
    "dlc_bench": dlc_judge,
    "ferret_bench": ferret_judge,
    "mdvp_bench": mdvp_judge,
    "osprey_description": osprey_judge,
}
