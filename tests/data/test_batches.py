"""From samples to batches: labels, boxes or masks, bad samples, packing with boundaries that hold."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from rgpt.data.collator import Collator, model_inputs
from rgpt.data.dataset import BadSample, TrainingSet, shown_as
from rgpt.data.mixture import Draw
from rgpt.data.packing import pack
from rgpt.data.sample_files import SampleFile
from rgpt.data.schema import QuestionAnswer, Sample, write_jsonl
from rgpt.errors import InputError
from rgpt.model.conversation import IGNORED, Conversation
from rgpt.regions import RLE, Box
from tests.model.tiny_models import KINDS, make_model, make_picture, make_processor
from tests.train.little import little_mix


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> SampleFile:
    return SampleFile(little_mix(tmp_path_factory.mktemp("mix"), 16))


def rows_of(file: SampleFile, kind: str = "clip+llama", **settings: Any) -> TrainingSet:
    return TrainingSet([file], make_processor(make_model(kind).config, kind), **settings)


def examples(rows: TrainingSet) -> list[Conversation]:
    made = [rows[Draw(0, number)] for number in range(len(rows.files[0]))]
    assert all(isinstance(item, Conversation) for item in made), made
    return made  # type: ignore[return-value]


# ---------------------------------------------------------------------------------------------- examples


def test_exactly_the_answers_are_learned(mix: SampleFile) -> None:
    rows = rows_of(mix)
    tokenizer = rows.processor.tokenizer
    for number, example in enumerate(examples(rows)):
        learned = example.input_ids[example.labels != IGNORED]
        assert torch.equal(learned, example.labels[example.labels != IGNORED])
        words = tokenizer.decode(learned).replace(" ", "")
        answers = "".join(turn.answer + tokenizer.eos_token for turn in mix[number].turns)
        assert words == answers.replace(" ", "")


def test_a_conversation_holds_what_its_sample_has(mix: SampleFile) -> None:
    for number, item in enumerate(examples(rows_of(mix))):
        sample = mix[number]
        assert len(item.pictures) == (sample.image is not None)
        assert len(item.weights) == len(item.mentions) == len(item.slots) == len(sample.regions)


def test_box_or_mask_depends_on_the_visit_alone(mix: SampleFile) -> None:
    row = next(n for n in range(len(mix)) if any(isinstance(r, RLE) for r in mix[n].regions))
    given, box, mixed = (rows_of(mix, region_form=form) for form in ("given", "box", "mixed"))
    visits = [Draw(0, row, epoch) for epoch in range(12)]
    masks = [mixed[visit].weights for visit in visits]  # type: ignore[union-attr]
    again = rows_of(mix, region_form="mixed")
    assert all(torch.equal(a, again[visit].weights) for a, visit in zip(masks, visits, strict=True))  # type: ignore[union-attr]
    assert any(not torch.equal(masks[0], other) for other in masks[1:])
    one, other = (rows[Draw(0, row)].weights for rows in (given, box))  # type: ignore[union-attr]
    for mask in masks:
        for region, as_given, as_box in zip(mask, one, other, strict=True):
            assert torch.equal(region, as_given) or torch.equal(region, as_box)


def test_half_of_the_regions_are_shown_as_boxes() -> None:
    region, chance = Box(0, 0, 4, 4), random.Random(0)

    class Counted:
        boxes = 0

        def bounds(self, height: int, width: int) -> Box:
            Counted.boxes += 1
            return region

    for _ in range(400):
        shown_as(Counted(), "mixed", chance, 10, 10)  # type: ignore[arg-type]
    assert 160 < Counted.boxes < 240


def one(folder: Path, *, image: bool = False, answer: str = "yes", data: bytes | None = None) -> SampleFile:
    path = folder / "p.png"
    make_picture().save(path)
    if data is not None:
        path.write_bytes(data)
    regions = (Box(1, 1, 9, 9),) if image else ()
    question = "<region1>?" if image else "hm?"
    sample = Sample("odd", path if image else None, regions, (QuestionAnswer(question, answer),))
    write_jsonl(folder / "s.jsonl", [sample])
    return SampleFile(folder / "s.jsonl")


@pytest.mark.parametrize(
    ("sample", "settings", "says"),
    [
        ({"image": True, "data": b"no picture"}, {}, "p.png'.*data in no such format"),
        ({"image": True, "data": b""}, {}, "an empty file"),
        ({"answer": "x" * 600}, {}, "tokens but the context holds 512"),
        ({"image": True}, {"max_length": 6, "truncation": True}, "would cut a picture or a region"),
    ],
)
def test_bad_samples_say_why(
    tmp_path: Path, sample: dict[str, Any], settings: dict[str, Any], says: str
) -> None:
    bad = rows_of(one(tmp_path, **sample), **settings)[Draw(0, 0)]
    assert isinstance(bad, BadSample)
    assert bad.id.endswith("s.jsonl, sample odd")
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(bad.reason)


def test_truncation_cuts_words(tmp_path: Path) -> None:
    example = rows_of(one(tmp_path, answer="x" * 600), truncation=True)[Draw(0, 0)]
    assert isinstance(example, Conversation) and len(example) == 512


def test_an_unknown_region_form_is_refused(mix: SampleFile) -> None:
    with pytest.raises(InputError, match="region_form: expected one of given, box, mixed, got 'boxes'"):
        rows_of(mix, region_form="boxes")


# ---------------------------------------------------------------------------------------------- packing


@pytest.mark.parametrize(
    ("lengths", "limit", "rows"),
    [
        ([5, 5], 10, [[0, 1]]),
        ([3, 9, 4, 2], 9, [[1], [2, 0, 3]]),
        ([7, 7, 7], 13, [[0], [1], [2]]),
        ([20, 1], 10, [[0], [1]]),
        ([1, 2, 3], None, [[0, 1, 2]]),
        ([4], 4, [[0]]),
    ],
)
def test_pack(lengths: list[int], limit: int | None, rows: list[list[int]]) -> None:
    assert pack(lengths, limit) == rows


def test_packing_never_needs_more_rows_than_samples() -> None:
    chance = random.Random(0)
    for _ in range(50):
        lengths = [chance.randint(1, 60) for _ in range(chance.randint(1, 20))]
        rows = pack(lengths, max(lengths))
        assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
        assert all(sum(lengths[n] for n in row) <= max(lengths) for row in rows)


@pytest.mark.parametrize("kind", ["clip+llama", "siglip+qwen2"])
@pytest.mark.parametrize("packing", ["rows", "one-row"])
def test_packed_and_unpacked_losses_are_equal(mix: SampleFile, kind: str, packing: str) -> None:
    """Of the batch, and of each sample: no token of one sample sees another."""
    assert kind in KINDS
    model, made = make_model(kind), examples(rows_of(mix, kind))

    @torch.no_grad()
    def losses(packing: str, items: list[Conversation]) -> torch.Tensor:
        batch = Collator(0, packing)(items)
        inputs = model_inputs(batch)
        wanted = inputs["shift_labels"]
        logits = model(**{k: v for k, v in inputs.items() if k not in ("labels", "shift_labels")}).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")

    alone = [float(losses("none", [example])) for example in made]
    assert float(losses("none", made)) == pytest.approx(sum(alone), rel=1e-5)
    assert float(losses(packing, made)) == pytest.approx(sum(alone), rel=1e-5)
    for number in range(len(made) - 1):  # two at a time, so that errors cannot cancel
        both = float(losses("one-row", made[number : number + 2]))
        assert both == pytest.approx(alone[number] + alone[number + 1], rel=1e-5)


def test_packing_saves_padding(mix: SampleFile) -> None:
    made = examples(rows_of(mix))
    sizes = {
        packing: Collator(0, packing)(made)["input_ids"].numel() for packing in ("none", "rows", "one-row")
    }
    assert sizes["one-row"] == sum(map(len, made)) <= sizes["rows"] < sizes["none"]


def test_the_loss_of_a_batch_is_that_of_the_labels(mix: SampleFile) -> None:
    """`logits_to_keep` with `shift_labels` leaves nothing out: the model's own shifting gives the same."""
    model, batch = make_model(), Collator(0, "none")(examples(rows_of(mix)))
    inputs = model_inputs(batch)
    short = model(**inputs).loss
    del inputs["logits_to_keep"], inputs["shift_labels"]
    assert float(short) == pytest.approx(float(model(**inputs).loss), rel=1e-6)


def test_counts_and_bad_samples_travel_with_the_batch(mix: SampleFile) -> None:
    made = examples(rows_of(mix))
    bad = BadSample("x", "why")
    batch = Collator(0)([*made[:4], bad])
    assert batch["bad"] == [bad]
    assert batch["counts"] == {"samples": 4, "cut": 0, "tokens": sum(map(len, made[:4])), "pictures": 3}
    assert "pixel_values" not in Collator(0)([made[0]])


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_bad_samples_only_teaches_nothing(training: bool) -> None:
    batch = Collator(0)([BadSample("x", "why")])
    inputs = model_inputs(batch)
    model = make_model().train(training)
    loss = model(**inputs, num_items_in_batch=1).loss
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
