"""Vocabularies, text banks, scoring rules, fusion, suppression: small tables and hand examples."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from rgpt.errors import InputError
from rgpt.recognizers.clip_towers import build_clip
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.scores import RegionScores, combine, probabilities, soft_nms
from rgpt.recognizers.text import WordEncoder
from rgpt.recognizers.vocabulary import Vocabulary, clean_name, coco80, embed, multi_hot, read_vocabulary
from rgpt.regions import Box
from tests.recognizers.tiny_recognizers import OPEN_VIT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aerosol_can", "aerosol can"),
        ("arctic_(type_of_shoe)", "arctic type of shoe"),
        ("tree-merged", "tree"),
        ("floor-other", "floor"),
        ("other-floor", "other-floor"),
        ("bow_(weapon), small", "bow weapon small"),
    ],
)
def test_clean_name(name: str, expected: str) -> None:
    assert clean_name(name) == expected


def test_duplicates_are_merged_and_still_found() -> None:
    vocabulary = Vocabulary(("dog", "big_cat", "dog", "big cat"), ("f", "r", "c", "r"))
    assert vocabulary.names == ("dog", "big_cat") and vocabulary.rows == (0, 1, 0, 1)
    assert vocabulary.frequency == ("f", "r") and vocabulary.merged == 2
    assert len(Vocabulary(("big_cat", "big cat"), clean_names=False)) == 2
    assert multi_hot(vocabulary, [["dog", "big cat"], []]).tolist() == [[1, 1], [0, 0]]
    with pytest.raises(InputError, match="'bird' of region 1"):
        multi_hot(vocabulary, [["bird"]])


def test_names_that_an_encoder_cannot_tell_apart_are_one_class() -> None:
    """CLIP's tokenizers lower the case, and an accent has two spellings in Unicode."""
    found = Vocabulary(("Dog", "caf\u00e9", "dog", "cafe\u0301", "\u540d\u524d"))
    assert found.names == ("Dog", "caf\u00e9", "\u540d\u524d") and found.rows == (0, 1, 0, 1, 2)
    encoder = WordEncoder(16)
    one, other = (embed(encoder, Vocabulary((name,))).weights for name in ("caf\u00e9", "cafe\u0301"))
    torch.testing.assert_close(one, other)
    assert Vocabulary(("Dog", "dog"), clean_names=False).merged == 0


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{} {}",), "openai"])
def test_no_such_templates(templates) -> None:
    with pytest.raises(InputError, match="templates"):
        Vocabulary(("dog",), templates=templates)


def test_a_vocabulary_may_be_longer_than_a_file_name(tmp_path: Path) -> None:
    names = [f"thing {i}" for i in range(400)]
    assert read_vocabulary(",".join(names)).names == tuple(names)
    file = tmp_path / "names.txt"
    file.write_text("\n".join(names), encoding="utf-8")
    assert read_vocabulary(str(file)).names == tuple(names)


def test_few_texts_at_once_embed_alike() -> None:
    class Counting(WordEncoder):
        most = 0

        def embed(self, texts: list[str]) -> torch.Tensor:
            self.most = max(self.most, len(texts))
            return super().embed(texts)

    names = Vocabulary(tuple(f"thing {i}" for i in range(7)), templates=("{}", "a {}", "the {}"))
    whole, parts = WordEncoder(16), Counting(16)
    torch.testing.assert_close(
        embed(parts, names, "background", block=6).weights, embed(whole, names, "background").weights
    )
    assert parts.most == 6  # two names in three templates


@pytest.mark.parametrize("names", [(), ("a", " "), "abc", ("a", 3)])
def test_no_such_vocabulary(names) -> None:
    with pytest.raises(InputError, match="vocabulary"):
        Vocabulary(names)


def test_templates() -> None:
    assert len(Vocabulary(("a",), templates="openai80").prompts()) == 80
    both_papers = Vocabulary(("a",), templates="openai81").prompts()
    assert len(both_papers) == 81 and both_papers[-1] == "{}." and "a bad photo of a {}." in both_papers
    assert all(template.count("{}") == 1 and template.endswith(".") for template in both_papers)
    assert coco80()[0] == "person" and coco80()[-1] == "toothbrush" and len(set(coco80())) == 80


def test_order_of_pooling() -> None:
    """Unit vectors first, then the mean, or the other way round: different rows."""
    encoder, templates = WordEncoder(16), ("{}", "a very very long text about {}")
    late = embed(encoder, Vocabulary(("dog", "cat"), templates=templates)).weights
    early = embed(encoder, Vocabulary(("dog", "cat"), templates=templates, normalise_first=True)).weights
    vectors = encoder.encode(["dog", "a very very long text about dog"])
    torch.testing.assert_close(late[0], F.normalize(vectors.mean(0), dim=0))
    torch.testing.assert_close(early[0], F.normalize(F.normalize(vectors, dim=1).mean(0), dim=0))
    assert (late - early).abs().max() > 0.01


def test_normalise_first_is_open_clips_classifier() -> None:
    import open_clip

    torch.manual_seed(0)
    _, text, _ = build_clip(OPEN_VIT)
    classifier = open_clip.build_zero_shot_classifier(
        text.model,
        text.tokenizer,
        ["dog", "cat"],
        open_clip.OPENAI_IMAGENET_TEMPLATES,  # type: ignore[union-attr]
    )
    ours = embed(text, Vocabulary(("dog", "cat"), templates="openai80", normalise_first=True)).weights
    torch.testing.assert_close(ours, classifier.T.float(), atol=1e-5, rtol=1e-4)


def test_words_compose() -> None:
    encoder = WordEncoder(64)
    red_car, red, car = encoder.encode(["A red car!", "a red", "car"])
    torch.testing.assert_close(red_car, red + car)
    assert torch.equal(encoder.encode(["dog"]), WordEncoder(64).encode(["DOG"]))


def three(**settings) -> RegionSet:
    return RegionSet((Box(0, 0, 10, 10), Box(1, 0, 11, 10), Box(50, 50, 60, 60)), 100, 100, **settings)


def test_fusion() -> None:
    probs, logits = torch.tensor([[0.5], [0.5], [0.5]]), torch.tensor([2.0, -1.0, 6.0])
    regions = three(scores=logits.sigmoid(), logits=logits)
    torch.testing.assert_close(combine(probs, regions, "product"), probs * logits.sigmoid()[:, None])
    torch.testing.assert_close(
        combine(probs, regions, "power")[0, 0], torch.sigmoid(torch.tensor(2.0)) ** 3 / 2
    )
    ours = combine(probs, regions, "sqrt_sigmoid")
    assert ((ours >= 0) & (ours <= 1)).all()
    published = combine(probs, regions, "sqrt_logit")
    assert published[2, 0] > 1 and torch.isnan(published[1, 0])
    assert torch.equal(combine(probs, three(), "sqrt_sigmoid"), probs)  # given by a person: no objectness
    with pytest.raises(InputError, match="RPN logits"):
        combine(probs, three(scores=torch.ones(3)), "sqrt_logit")


def test_negative_logits_vanish_only_as_published() -> None:
    logits = torch.tensor([2.0, -1.0, 6.0])
    scores = scored(torch.tensor([[3.0], [2.0], [1.0]]), three(scores=logits.sigmoid(), logits=logits))
    assert sorted(scores.detections(how="sqrt_logit").region.tolist()) == [0, 2]
    assert sorted(scores.detections(how="sqrt_sigmoid").region.tolist()) == [0, 1, 2]


def scored(logits: torch.Tensor, regions: RegionSet) -> RegionScores:
    names = tuple("abcdefgh"[: logits.shape[1]])
    return RegionScores(names, logits, probabilities(logits, "sigmoid"), "sigmoid", regions)


def test_detections() -> None:
    scores = scored(
        torch.tensor([[2.0, 0.0], [1.0, -1.0], [-3.0, 3.0]]), three(scores=torch.tensor([0.1, 1.0, 1.0]))
    )
    plain = scores.detections()
    assert plain.scores.tolist() == sorted(plain.scores.tolist(), reverse=True) and len(plain.scores) == 6
    assert (int(plain.region[0]), int(plain.labels[0])) == (2, 1)
    # The cut comes before objectness: region 0's sure name is in, though its product is small.
    cut = scores.detections(how="product", before=2)
    assert sorted(cut.region.tolist()) == [0, 2]
    assert len(scores.detections(k=3).scores) == 3
    hard = scores.detections(nms=0.5)  # boxes 0 and 1 overlap by 0.82
    assert sorted(zip(hard.region.tolist(), hard.labels.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (2, 0),
        (2, 1),
    ]
    assert len(scores.detections(floor=0.6).scores) == 3


def test_soft_suppression_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10], [30, 30, 40, 40]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 1, 0])
    kept, lowered = soft_nms(boxes, scores, labels, sigma=0.5)
    assert kept.tolist() == [0, 2, 3, 1]  # another class is untouched; IoU 0.5 lowers the second box
    torch.testing.assert_close(lowered, torch.tensor([0.9, 0.7, 0.6, 0.8 * math.exp(-0.25 / 0.5)]))
    twin = torch.tensor([[0.0, 0, 10, 10]] * 2)
    kept, lowered = soft_nms(twin, torch.tensor([0.9, 0.006]), torch.zeros(2), sigma=0.5)
    assert kept.tolist() == [0]  # 0.006 · exp(-2) is under 0.001
    assert soft_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))[0].tolist() == []
