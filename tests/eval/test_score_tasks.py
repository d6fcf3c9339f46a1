"""The other tasks: an oracle, a constant answer, failed items, and rows in another order."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.metrics.judged import DlcVerdict, dlc_scores, ferret_score
from eval.metrics.referring import box_iou
from eval.metrics.semantic import plain_answer, plain_name, semantic_iou
from eval.metrics.yes_no import pope_answer, yes_no_scores
from eval.score import score_task
from rgpt.errors import InputError
from tests.eval.truths import answer_rows, grid_truth

# ------------------------------------------------------------------------------------------------------ POPE

QUESTIONS = [
    {
        "question_id": n,
        "image": f"{n}.jpg",
        "text": f"Is there a {n}?",
        "label": "yes" if n % 4 == 0 else "no",
    }
    for n in range(1, 41)
]


def said(answer: Any) -> list[dict[str, Any]]:
    return [
        {"id": str(q["question_id"]), "raw_answer": answer(q) if callable(answer) else answer}
        for q in QUESTIONS
    ]


def test_pope_oracle_and_constants() -> None:
    oracle = score_task("pope", QUESTIONS, said(lambda q: q["label"].title() + "."))
    assert [oracle[k] for k in ("accuracy", "precision", "recall", "f1", "yes_ratio")] == [1, 1, 1, 1, 0.25]
    yes = score_task("pope", QUESTIONS, said("Yes"))
    assert [yes[k] for k in ("accuracy", "precision", "recall", "f1", "yes_ratio")] == [0.25, 0.25, 1, 0.4, 1]
    no = score_task("pope", QUESTIONS, said("No"))
    assert [no[k] for k in ("accuracy", "precision", "recall", "yes_ratio")] == [0.75, None, 0, 0]


def test_pope_order_failures_and_protocols() -> None:
    rows = said(lambda q: random.Random(q["question_id"]).choice(["Yes", "no", "Maybe"]))
    rows[3] = {"id": "4", "failed": "no picture"}
    mixed = random.Random(0).sample(rows, len(rows))
    for protocol in ("author-script", "strict"):
        first = score_task("pope", QUESTIONS, rows, protocol)
        assert score_task("pope", QUESTIONS, mixed, protocol) == first
        assert first["failed"] == 1 and first["n"] == 40
        assert first["tp"] + first["fp"] + first["tn"] + first["fn"] + first["unparsed"] == 39
    assert first["unparsed"] == sum(row.get("raw_answer") == "Maybe" for row in rows) > 0
    scored = [row | {"scores": {"yes": 0.2, "no": 0.8}} for row in said("Yes")]
    assert score_task("pope", QUESTIONS, scored, "scored")["yes_ratio"] == 0


@pytest.mark.parametrize(
    "text, yes",
    [
        ("Yes", True), ("no", False), ("No, there is not.", False), ("There is not a cat", False),
        ("Yes. No cat is seen", True), ("NO", True), ("Nothing", True), ("", True), ("Well, no", False),
    ],
)  # fmt: skip
def test_pope_reads_answers_as_its_authors_do(text: str, yes: bool) -> None:
    assert pope_answer(text) is yes


def test_a_missing_answer_is_wrong_and_neither_yes_nor_no() -> None:
    scores = yes_no_scores([True, False, True], [True, None, None])
    assert (scores["accuracy"], scores["precision"], scores["recall"]) == (1 / 3, 1, 0.5)
    assert scores["yes_ratio"] == 1 / 3 and scores["tp"] + scores["fp"] + scores["tn"] + scores["fn"] == 1


# ------------------------------------------------------------------------------------------------- referring

BOXES = [[100 * n, 0, 100 * n + 50, 40] for n in range(4)]
EXPRESSIONS = [
    {"id": str(n), "expression": f"number {n}", "box": BOXES[n % 4] if n % 5 else None, "candidates": BOXES}
    for n in range(20)
]


def picks(answer: Any) -> list[dict[str, Any]]:
    return [{"id": e["id"], "raw_answer": answer(e) if callable(answer) else answer} for e in EXPRESSIONS]


def right(e: dict[str, Any]) -> str:
    return f"Region [{BOXES.index(e['box']) + 1}]." if e["box"] else "No corresponding options found."


def test_referring_oracle_and_constants() -> None:
    oracle = score_task("referring", EXPRESSIONS, picks(right))
    assert (oracle["accuracy"], oracle["precision_at_1"], oracle["no_match"]) == (1, 1, 1)
    first = score_task("referring", EXPRESSIONS, picks("Region [1]."))
    assert (first["precision_at_1"], first["no_match"], first["accuracy"]) == (0.25, 0, 0.2)
    nothing = score_task("referring", EXPRESSIONS, picks("No corresponding options found."))
    assert (nothing["precision_at_1"], nothing["no_match"], nothing["accuracy"]) == (0, 1, 0.2)
    for unreadable in ("the left one", "Region [9]."):
        scores = score_task("referring", EXPRESSIONS, picks(unreadable))
        assert (scores["accuracy"], scores["unparsed"]) == (0, 20)
    shuffled = random.Random(1).sample(picks(right), 20)
    assert score_task("referring", EXPRESSIONS, shuffled) == oracle


def test_the_rows_own_regions_come_before_the_candidates() -> None:
    rows = picks(right)
    for row in rows:
        row["regions"] = [{"box": box} for box in BOXES[::-1]]
    assert score_task("referring", EXPRESSIONS, rows)["precision_at_1"] == 0
    mask = {"mask": {"size": [50, 400], "counts": "0"}}
    rows[1]["regions"] = [mask]
    with pytest.raises(InputError):
        score_task("referring", EXPRESSIONS, [rows[1] | {"raw_answer": "Region [1]."}], subset=True)


def test_google_refexp_and_refs_layouts(tmp_path: Path) -> None:
    truth = {
        "annotations": {"7": {"bbox": [10, 10, 20, 20], "refexp_ids": [1, 2]}},
        "refexps": {"1": {"raw": "left"}, "2": {"raw": "the dog"}},
        "images": {},
    }
    results = [
        {"refexp_id": 1, "annotation_id": 7, "predicted_bounding_boxes": [[10, 10, 20, 20], [0, 0, 1, 1]]},
        {"refexp_id": 2, "annotation_id": 7, "predicted_bounding_boxes": [[0, 0, 1, 1], [10, 10, 20, 20]]},
    ]
    assert score_task("referring", truth, results)["precision_at_1"] == 0.5
    with pytest.raises(InputError, match="another split"):
        score_task("referring", truth, [results[0] | {"annotation_id": 8}], subset=True)
    rec = [{"expression": "left", "bbox": [0.1, 0.1, 0.3, 0.5], "width": 100, "height": 50}]
    assert score_task("referring", rec, [rec[0] | {"bbox": [10, 5, 30, 25]}])["mean_iou"] == pytest.approx(1)


def test_the_plus_one_rule_counts_the_last_pixel() -> None:
    a, b = (0, 0, 10, 10), (5, 0, 15, 10)
    assert box_iou(a, b) == pytest.approx(50 / 150)
    assert box_iou(a, b, pixel=1) == pytest.approx(66 / (121 + 121 - 66))
    assert box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


# ------------------------------------------------------------------------------------------- open vocabulary


def one_hot(texts: Any) -> np.ndarray:
    """Texts are orthogonal unless equal."""
    return np.eye(len(texts))


def test_open_vocabulary_oracle_and_constant() -> None:
    truth = grid_truth()
    rows = answer_rows(truth, lambda name, _: f"It is: {name.replace('_', ' ')}.")
    oracle = score_task("open_vocabulary", truth, rows, embedder=one_hot)
    assert (oracle["semantic_similarity"], oracle["semantic_iou"], oracle["accuracy"]) == (1, 1, 1)
    rows = answer_rows(truth, lambda *_: "sofa")
    constant = score_task("open_vocabulary", truth, rows, embedder=one_hot)
    assert constant["semantic_similarity"] == 0, "no name is exactly sofa"
    assert constant["semantic_iou"] == 0.5 / 4, "half the words of sofa bed, a quarter of the boxes"
    none = score_task("open_vocabulary", truth, rows[::-1], embedder="none")
    assert none["semantic_similarity"] is None and none["semantic_iou"] == constant["semantic_iou"]
    rows[0] = {"id": rows[0]["id"], "failed": "x"}
    assert score_task("open_vocabulary", truth, rows, embedder=one_hot)["failed"] == 1


def test_osprey_lists_and_words() -> None:
    pictures = [{"id": 3, "categories": ["Dog", "cap_(headwear)"]}]
    rows = [{"id": "3/0", "raw_answer": "dog"}, {"id": "3/1", "raw_answer": "Answer: a cap (headwear)."}]
    scores = score_task("open_vocabulary", pictures, rows, embedder="none")
    assert scores["semantic_iou"] == pytest.approx((1 + 2 / 3) / 2)
    assert plain_answer("a.b,c") == "a b c" and plain_name("x_y:z") == "x y z" and semantic_iou("", "") == 0


def test_the_embedder_averages_tokens(tmp_path: Path) -> None:
    """Against a hand-made mean over the tokens of a random BERT; padding must not count."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    from eval.scorers.embedders import load_embedder

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "cat", "red"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path)
    rows = load_embedder(str(tmp_path))(["dog", "red red cat dog"])
    alone = load_embedder(str(tmp_path), batch_size=1)(["dog", "red red cat dog"])
    assert rows.shape == (2, 16) and np.allclose(rows, alone, atol=1e-6)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)
    with pytest.raises(InputError, match="embedder none"):
        load_embedder(str(tmp_path / "nowhere"))


# ---------------------------------------------------------------------------------------------------- judged

QA = {
    str(n): [
        {"question": "?", "choices": [["a", 1], ["b", 0]], "type": t}
        for t in ("positive", "positive", "negative")
    ]
    for n in range(5)
}


def judged(recognised: bool, positives: list[float], negatives: list[float]) -> dict[str, Any]:
    return {i: {"recognition_result": recognised, "positives": positives, "negatives": negatives} for i in QA}


@pytest.mark.parametrize(
    "verdict, pos, neg",
    [
        ((True, [1, 1], [1]), 1, 1),  # the oracle
        ((True, [0, 0], [1]), 0, 1),  # says nothing, but of the right thing
        ((False, [0, 0], [1]), 0, 0),  # a constant answer about something else
        ((False, [1, -1], [-1]), -0.5, -1),
        ((True, [0.5, -1], [0]), -0.25, 0),
    ],
)
def test_dlc_bench(verdict: Any, pos: float, neg: float) -> None:
    scores = score_task("dlc_bench", QA, judged(*verdict))
    assert (scores["pos"], scores["neg"], scores["avg"], scores["n"]) == (pos, neg, (pos + neg) / 2, 5)


def test_dlc_regions_without_negatives_and_failed_ones() -> None:
    verdicts = [DlcVerdict(True, (1.0,), ()), DlcVerdict(True, (0.0,), (1.0, -1.0))]
    scores = dlc_scores(verdicts)
    assert (scores["pos"], scores["neg"], scores["n_neg"]) == (0.5, 0, 1)
    records = judged(True, [1, 1], [1])
    records["0"] = {"recognition_result": False, "positives": [0, 0], "negatives": [0], "failed": "no answer"}
    assert score_task("dlc_bench", QA, records)["failed"] == 1
    backwards = dict(reversed(records.items()))
    assert score_task("dlc_bench", QA, backwards) == score_task("dlc_bench", QA, records)
    records["1"] |= {"score_pos": 0.3}
    with pytest.raises(InputError, match="judge it again"):
        score_task("dlc_bench", QA, records)


def test_ferret_bench() -> None:
    assert ferret_score([(8, 8), (6, 6)]) == 100
    assert ferret_score([(10, 1)] * 3) == 10 and ferret_score([]) is None
    reviews = [
        {"question_id": n, "category": kind, "tuple": [8, 8 if kind == "refer_desc" else 4]}
        for n in range(3)
        for kind in ("refer_desc", "refer_reason")
    ]
    scores = score_task("ferret_bench", None, reviews)
    assert scores["relative_score"] == 75 and scores["per_category"]["refer_reason"] == {"n": 3, "score": 50}
    reviews.append({"question_id": 9, "category": "refer_desc", "tuple": [-1, -1]})
    again = score_task("ferret_bench", None, reviews[::-1])
    assert (again["relative_score"], again["failed"], again["n"]) == (75, 1, 7)


def test_scores_can_be_written_as_json() -> None:
    assert json.loads(json.dumps(score_task("dlc_bench", QA, judged(True, [1, 1], [1]))))["avg"] == 1


# ------------------------------------------------------------------------------------------------ GAR's VQA

CHOICES = [
    {
        "question": f"{n}?",
        "choices": ["A. red", "B. blue"],
        "answer": "AB"[n % 2],
        "type": ["colour", "shape"][n > 2],
    }
    for n in range(5)
]


def test_multiple_choice() -> None:
    said = ["A", "b ", "A.", "A", "(A) red"]
    published = [q | {"model_output": s} for q, s in zip(CHOICES, said, strict=True)]
    scores = score_task("gar_vqa", None, published)
    assert (scores["correct"], scores["n"], scores["accuracy"]) == (2, 5, 0.4)
    assert scores["per_type"]["colour"] == {"n": 3, "accuracy": 2 / 3}
    assert score_task("gar_vqa", CHOICES, published) == scores
    assert score_task("gar_vqa", CHOICES, published, "letter")["correct"] == 4
    rows = [{"id": n, "raw_answer": s} for n, s in enumerate(said, start=1)]
    rows[0] = {"id": 1, "failed": "no picture"}
    scores = score_task("gar_vqa", CHOICES, rows)
    assert (scores["correct"], scores["failed"]) == (1, 1)
    assert score_task("gar_vqa", CHOICES, rows, ids=[2])["accuracy"] == 1
    with pytest.raises(InputError, match="row 2, answer: expected B, got 'A'"):
        score_task("gar_vqa", CHOICES, [published[0], published[0]])
    with pytest.raises(InputError, match="and --gt"):
        score_task("gar_vqa", None, rows)


# ------------------------------------------------------------------------------------------------ Shikra

ASKED = [
    {
        "img_path": "a.jpg",
        "expression": f"the {n}",
        "bbox": [10 * n, 10, 10 * n + 50, 60],
        "width": 200,
        "height": 100,
    }
    for n in range(3)
]
TARGETS = [
    f"Answer: [{n / 20:.3f},0.300,{n / 20 + 0.25:.3f},0.550] ." for n in range(3)
]  # padded to 200 x 200


def test_shikras_predictions_need_no_ground_truth() -> None:
    preds = [TARGETS[0], "[0.050,0.300,0.180,0.550]", "two: [0.1,0.3,0.35,0.55] or [0.0,0.0,0.1,0.1]"]
    rows = [{"pred": p, "target": t} for p, t in zip(preds, TARGETS, strict=True)]
    scores = score_task("referring", None, rows)
    assert (scores["precision_at_1"], scores["unparsed"], scores["n"]) == (pytest.approx(2 / 3), 1, 3)
    assert score_task("referring", ASKED, rows) == scores
    with pytest.raises(InputError, match=r"row 1, target: expected the box of 'the 0'.*another split"):
        score_task("referring", ASKED, rows[1:], subset=True)
    with pytest.raises(InputError, match="got none for 1"):
        score_task("referring", ASKED, rows[:2])
    with pytest.raises(InputError, match="row 1, target: expected one box"):
        score_task("referring", None, [{"pred": "x", "target": "y"}])


def test_rec_files_have_fractions_or_pixels_not_both() -> None:
    shares = [
        row | {"bbox": [v / (200, 100)[k % 2] for k, v in enumerate(row["bbox"])]}
        for row in ASKED  # type: ignore
    ]
    assert score_task("referring", shares, ASKED)["precision_at_1"] == 1
    with pytest.raises(InputError, match="row 2, bbox: expected pixels as in most rows, got fractions"):
        score_task("referring", [ASKED[0], shares[1], ASKED[2]], ASKED)
    tiny = [row | {"bbox": [0, 0, 1, 1]} for row in ASKED[:1]]  # a model may say anything
    assert score_task("referring", ASKED, [*tiny, *ASKED[1:]])["precision_at_1"] == pytest.approx(2 / 3)


# ------------------------------------------------------------------------------------------------ VOC


def test_vocs_average_precision_of_folders(tmp_path: Path) -> None:
    for name, lines in (("gt/a", ["cat 0 0 9 9", "dog 20 20 9 9"]), ("gt/b", ["cat 0 0 9 9"])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "a.txt").write_text("cat 0.9 0 0 9 9\ndog 0.8 40 40 9 9\n")
    scores = score_task("detection", tmp_path / "gt", tmp_path / "found", "voc")
    assert (scores["AP"], scores["per_class"]["cat"]["AP"], scores["n"]) == (0.25, 0.5, 2)
    (tmp_path / "found" / "a.txt").write_text("cat 0.9 0 0 9\n")
    with pytest.raises(InputError, match=r"a\.txt:1: expected class score x y w h in pixels, got 'cat 0.9"):
        score_task("detection", tmp_path / "gt", tmp_path / "found", "voc-11-point")
    with pytest.raises(InputError, match="--base has no effect"):
        score_task("detection", tmp_path / "gt", tmp_path / "found", "voc", base=("cat",))
