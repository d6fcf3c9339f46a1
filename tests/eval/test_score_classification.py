"""Region classification: what theory says of an oracle, of a constant, and of rows in another order."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from eval.metrics.detection import coco_ap, lvis_ap, top_per_image
from eval.score import score_task
from rgpt.errors import InputError
from tests.eval.truths import NAMES, answer_rows, grid_truth


def spoken(name: str, _: int = 0) -> str:
    return name.replace("_", " ")


def plain(scores: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in scores.items() if isinstance(v, int | float | str)}


@pytest.mark.parametrize("lvis", [False, True], ids=["coco", "lvis"])
@pytest.mark.parametrize("protocol", ["scored", "author-script"])
def test_an_oracle_scores_one(protocol: str, lvis: bool) -> None:
    truth = grid_truth(lvis=lvis)
    scores = score_task("region_classification", truth, answer_rows(truth, spoken), protocol)
    for name in ("accuracy", "mAP", "AP50", "APs", "APm", "APl") + (("APr", "APc", "APf") if lvis else ()):
        assert scores[name] == pytest.approx(1.0, abs=1e-12), name
    assert (scores["n"], scores["failed"], scores["dropped"]) == (24, 0, 0)
    assert scores["protocol"] == protocol and not scores["confusions"]
    assert {v["n"] for v in scores["per_size"].values()} == {8}


@pytest.mark.parametrize("lvis", [False, True], ids=["coco", "lvis"])
@pytest.mark.parametrize("surest", ["right", "wrong"])
def test_a_constant_answer_scores_what_theory_says(surest: str, lvis: bool) -> None:
    """One class of K is always right, the others never found. Its AP is 1 where the right boxes come first,
    and the share of right boxes where they come last (precision only rises, and is interpolated)."""
    truth = grid_truth(lvis=lvis)
    for image in truth["images"] if lvis else ():
        image["neg_category_ids"] = []
    rows = answer_rows(truth, lambda *_: "dog")
    for row, annotation in zip(rows, truth["annotations"], strict=True):
        row["score"] = 0.9 if (annotation["category_id"] == 10) == (surest == "right") else 0.2
    scores = score_task("region_classification", truth, rows, "scored")
    share = 1 / len(NAMES)
    assert scores["accuracy"] == share
    assert scores["mAP"] == pytest.approx(share if surest == "right" else share * share, abs=1e-12)
    assert scores["per_class"]["dog"]["accuracy"] == 1 and scores["per_class"]["cat"] == {
        "n": 6, "accuracy": 0.0, "AP": 0.0,
    }  # fmt: skip
    assert scores["confusions"] == [["cat", "dog", 6], ["person", "dog", 6], ["sofa bed", "dog", 6]]


def test_the_order_of_rows_changes_nothing_under_scored_but_matters_to_the_authors_script() -> None:
    truth = grid_truth(12)
    rng = random.Random(3)
    rows = answer_rows(truth, lambda name, _: rng.choice([name, *NAMES]))
    for row in rows:
        row["score"] = round(row["score"], 1)  # ties
    found: dict[str, list[Any]] = {"scored": [], "author-script": []}
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        for protocol, listed in found.items():
            listed.append(score_task("region_classification", truth, rows, protocol))
    assert all(scores == found["scored"][0] for scores in found["scored"])
    assert len({scores["mAP"] for scores in found["author-script"]}) > 1
    assert len({scores["accuracy"] for scores in found["author-script"]}) == 1


def test_results_in_any_order_under_scored() -> None:
    truth = grid_truth()
    rows = [
        {"image_id": a["image_id"], "category_id": 10, "bbox": a["bbox"], "score": 0.5, "ann_id": a["id"]}
        for a in truth["annotations"]
    ]
    first = score_task("region_classification", truth, rows, "scored")
    assert score_task("region_classification", truth, rows[::-1], "scored") == first


def test_the_authors_script_wants_the_very_letters_and_reads_up_to_a_comma() -> None:
    truth = grid_truth(1)
    rows = answer_rows(truth, spoken)
    for row, text in zip(rows, ("Dog", "cat, lying", "sofa bed", "person."), strict=True):
        row["raw_answer"] = row["answer"] = text
    exact = score_task("region_classification", truth, rows, "author-script")
    assert (exact["accuracy"], exact["dropped"], exact["detections"]) == (0.25, 1, 3)
    kind = score_task("region_classification", truth, rows, "scored")
    assert (kind["accuracy"], kind["dropped"]) == (0.75, 1)


def test_a_failed_item_is_wrong_and_gives_no_detection() -> None:
    truth = grid_truth()
    rows = answer_rows(truth, spoken)
    rows[0] = {"id": rows[0]["id"], "failed": "out of memory"}
    scores = score_task("region_classification", truth, rows)
    assert (scores["n"], scores["failed"], scores["detections"]) == (24, 1, 23)
    assert scores["accuracy"] == pytest.approx(23 / 24) and scores["mAP"] < 1
    all_failed = [{"id": row["id"], "failed": "no model"} for row in rows]
    scores = score_task("region_classification", truth, all_failed)
    assert (scores["accuracy"], scores["mAP"], scores["failed"]) == (0, 0, 24)


def test_likelihoods_of_all_names_rank_and_can_give_several_detections() -> None:
    truth = grid_truth()
    rows = answer_rows(truth, spoken)
    for row, annotation in zip(rows, truth["annotations"], strict=True):
        names = [c["name"] for c in truth["categories"]]
        right = truth["categories"][annotation["category_id"] // 10 - 1]["name"]
        others = [n for n in names if n != right]
        row["scores"] = {others[0]: 0.5, right: 0.3, others[1]: 0.1, others[2]: 0.1}
    one = score_task("region_classification", truth, rows, "scored")
    two = score_task("region_classification", truth, rows, "scored", detections_a_region=2)
    assert (one["accuracy"], one["mAP"], two["accuracy"]) == (0, 0, 0)
    assert two["mAP"] > 0 and two["detections"] == 2 * one["detections"]


def test_a_subset_is_scored_against_itself() -> None:
    truth = grid_truth()
    rows = answer_rows(truth, spoken)[:5]
    scores = score_task("region_classification", truth, rows, subset=True)
    assert (scores["accuracy"], scores["mAP"], scores["n"], scores["n_ground_truth"]) == (1, 1, 5, 24)
    only = score_task("region_classification", truth, answer_rows(truth, spoken), ids=[1, 2])
    assert (only["n"], only["mAP"]) == (8, 1)


def test_categories_of_one_name_are_one() -> None:
    truth = grid_truth(names=("hot dog", "Hot_Dog", "cat"))
    scores = score_task("region_classification", truth, answer_rows(truth, spoken), "scored")
    assert (scores["accuracy"], scores["mAP"]) == (1, pytest.approx(1))


# ------------------------------------------------------------------------------------ AP, two implementations


def random_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = random.Random(seed)
    truth = grid_truth(8, lvis=True)
    detections = []
    for a in truth["annotations"]:
        for _ in range(rng.randrange(4)):
            x, y, w, h = a["bbox"]
            box = [
                x + rng.uniform(-0.3, 0.3) * w,
                y + rng.uniform(-0.3, 0.3) * h,
                w * rng.uniform(0.8, 1.2),
                h,
            ]
            category = a["category_id"] if rng.random() < 0.6 else rng.choice([10, 20, 30, 40])
            detections.append(
                {"image_id": a["image_id"], "category_id": category, "bbox": box, "score": rng.random()}
            )
    return truth, detections


@pytest.mark.parametrize("seed", range(4))
def test_where_everything_is_annotated_lvis_equals_coco(seed: int) -> None:
    """faster-coco-eval's federated AP against pycocotools: the same where nothing is left open."""
    truth, detections = random_set(seed)
    for image in truth["images"]:
        image["neg_category_ids"] = [10, 20, 30, 40]
    lvis, coco = lvis_ap(truth, detections), coco_ap(grid_truth(8), detections)
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"):
        assert lvis.stats[name] == pytest.approx(coco.stats[name], abs=1e-12)
    assert lvis.by_category == pytest.approx(coco.by_category)


def test_lvis_ignores_what_was_not_looked_for() -> None:
    truth = grid_truth(1, lvis=True)
    truth["annotations"] = truth["annotations"][
        :2
    ]  # a dog and a cat; sofa beds and persons nobody looked for
    good = [
        {"image_id": 1, "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.5}
        for a in truth["annotations"]
    ]
    stray = {"image_id": 1, "category_id": 10, "bbox": [800, 800, 50, 50], "score": 0.9}

    def ap(*more: dict[str, Any], **image: Any) -> float | None:
        changed = {**truth, "images": [{**truth["images"][0], **image}]}
        changed["annotations"] = [dict(a) for a in truth["annotations"]]
        return lvis_ap(changed, [*good, *more]).stats["AP"]

    assert ap() == pytest.approx(1)
    assert ap({**stray, "category_id": 30}) == pytest.approx(1), (
        "a class neither present nor known to be absent"
    )
    assert ap(stray) == pytest.approx(0.75), "a wrong dog before the right one halves that class"
    assert ap(stray, not_exhaustive_category_ids=[10]) == pytest.approx(1), "not all dogs were drawn"


def test_detections_are_cut_over_all_categories_of_a_picture() -> None:
    rows = [
        {"image_id": i % 2, "category_id": i, "score": s}
        for i, s in enumerate([0.1, 0.5, 0.9, 0.5, 0.5, 0.5])
    ]
    assert [r["category_id"] for r in top_per_image(rows, 2)] == [1, 2, 3, 4]
    truth = grid_truth(1, lvis=True)
    truth["images"][0]["neg_category_ids"] = [10, 20, 30, 40]
    right = {"image_id": 1, "category_id": 10, "bbox": truth["annotations"][0]["bbox"], "score": 0.1}
    flood = [
        {"image_id": 1, "category_id": 40, "bbox": [900, 900, 9, 9], "score": 0.5 + i / 1000}
        for i in range(300)
    ]
    assert lvis_ap(truth, [right, *flood[:299]]).by_category[10] == pytest.approx(1)
    assert lvis_ap(grid_truth(1, lvis=True), [right, *flood]).by_category[10] == 0, "the 301st of its picture"


def test_nothing_to_find_is_none_not_minus_one() -> None:
    truth = grid_truth(1)
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] > 96**2]
    stats = coco_ap(truth, []).stats
    assert stats["APs"] is None and stats["AP"] == 0 and not np.isnan(stats["AP"])


def test_unknown_options_and_protocols_are_refused() -> None:
    truth = grid_truth()
    rows = answer_rows(truth, spoken)
    for wrong in ({"protocol": "best"}, {"sizes": 3}, {"protocol": "coco"}):
        with pytest.raises(InputError):
            score_task("region_classification", truth, rows, **wrong)
    with pytest.raises(InputError, match="one of region_classification"):
        score_task("classification", truth, rows)
