"""The result folder: the format that came in with its answers, a table, a report; whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rgpt.annotate import coco_out, label_studio_out, tree_out
from rgpt.annotate.questions import Question
from rgpt.annotate.records import Annotated
from rgpt.annotate.report import write_report
from rgpt.annotate.review import review_queue
from rgpt.annotate.sources import Source
from rgpt.annotate.table import write_table
from rgpt.data.schema import Sample, read_jsonl, write_jsonl
from rgpt.errors import InputError
from rgpt.files import whole_folder
from rgpt.formats.jsonl import dump_line
from rgpt.model.calibration import Calibration
from rgpt.prompts import MENTION, mention

RESULT = "result"


def write_result(
    out: Path,
    source: Source,
    questions: Sequence[Question],
    objects: Sequence[Annotated],
    model: str,
    calibration: Mapping[str, Calibration],
) -> Path:
    """Write OUT/result, in the place of an earlier one. Raises InputError: the disk is full."""
    result, queue = out / RESULT, review_queue(objects)
    try:
        with whole_folder(result, replace=True) as folder:
            write_format(folder, source, questions, {item.target.key: item for item in objects}, model)
            lines = (dump_line(as_json(item)) for item in objects)
            with open(folder / "objects.jsonl", "w", encoding="utf-8", newline="\n") as stream:
                stream.writelines(lines)
            write_table(folder / "objects.csv", questions, queue)
            write_report(folder / "report.html", source, questions, queue, model, calibration)
    except OSError as error:
        raise InputError(
            f"{result} cannot be written ({error.strerror or error}): make room; the same command "
            "goes on, and asks nothing again."
        ) from error
    return result


def as_json(item: Annotated) -> dict[str, object]:
    """A line of objects.jsonl."""
    found: dict[str, object] = {"key": item.target.key, "picture": item.picture, "label": item.target.label}
    found["box"] = [round(value, 2) for value in item.target.box.xyxy]
    found["sureness"] = None if item.sureness is None else round(item.sureness, 6)
    found["answers"] = {key: answer.to_json() for key, answer in item.answers.items()}
    if item.others:
        found["others"] = {key: answer.to_json() for key, answer in item.others.items()}
        found["differing"] = item.differing
    return found


def write_format(
    folder: Path, source: Source, questions: Sequence[Question], objects: Mapping[str, Annotated], model: str
) -> None:
    """The source with its answers, in its own format."""
    if source.kind in ("coco", "folder"):
        coco_out.write_coco(folder, source.path, objects)
    elif source.kind == "label-studio":
        label_studio_out.write_tasks(folder, source.path, questions, objects, model)
    elif source.kind == "cvat":
        tree_out.write_cvat(folder, source.path, questions, objects)
    elif source.kind == "voc":
        tree_out.write_voc(folder, source.path, objects)
    elif source.kind == "yolo":
        tree_out.write_yolo(folder, source.path, source.images, questions, objects)
    else:
        write_samples(folder / "samples.jsonl", source.path, questions, objects)


def write_samples(
    path: Path, source: Path, questions: Sequence[Question], objects: Mapping[str, Annotated]
) -> None:
    """Every sample with a turn more for each answer; nothing is taken away."""

    def samples() -> object:
        for sample in read_jsonl(source):
            turns = list(sample.turns)
            for number in range(1, len(sample.regions) + 1):
                item = objects.get(f"{sample.id}#{number}")
                for question in questions if item else ():
                    answer = item.answers[question.key] if item else None
                    if answer and answer.value is not None:
                        asked = MENTION.sub(mention(number), question.text)
                        said = answer.shares[0][0] if answer.shares else answer.text()
                        turns.append((asked, said))  # type: ignore[arg-type]
            yield Sample(sample.id, sample.image, sample.regions, tuple(turns))

    write_jsonl(path, samples())  # type: ignore[arg-type]
