"""RegionCLIP: exact checks of the region path, the losses, the zero background, the transfer head."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import roi_align

from rgpt.errors import InputError
from rgpt.recognizers.region_set import RegionSet
from rgpt.recognizers.regionclip import RegionClip, visual_parameters
from rgpt.recognizers.regionclip_detector import (
    COCO,
    LVIS,
    RegionClipDetector,
    focal_scaled_cross_entropy,
)
from rgpt.recognizers.regionclip_losses import (
    distillation,
    image_text_contrast,
    pseudo_labels,
    region_text_contrast,
)
from rgpt.recognizers.scores import probabilities
from rgpt.regions import Box
from tests.recognizers.tiny_recognizers import make, picture


@pytest.fixture(scope="module")
def clip() -> RegionClip:
    made: RegionClip = make("regionclip")  # type: ignore[assignment]
    for name, value in made.visual.named_buffers():
        if name.endswith("bn3.weight"):
            value.fill_(1.0)  # drawn as zeros, which would silence every residual branch
    return made


def unit_rows(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize(("name", "total", "trained"), [("RN50", 38.32, 38.02), ("RN50x4", 87.14, 86.54)])
def test_visual_parameters(name: str, total: float, trained: float) -> None:
    found = visual_parameters(name)
    print(f"RegionCLIP {name}: {found[0]:,} in all, {found[1]:,} trained")
    assert found[0] / 1e6 == pytest.approx(total, abs=0.01)
    assert found[1] / 1e6 == pytest.approx(trained, abs=0.06)


@torch.no_grad()
def test_the_whole_native_picture_is_the_pictures_embedding(clip: RegionClip) -> None:
    image = picture(3, 64, 64)  # the tower's own size
    state = clip.encode_images([image])[0]
    pixels = state.geometry.pixels(image, clip_mean(), clip_std())[None]
    whole = RegionSet((Box(0, 0, 64, 64),), 64, 64)
    embedded, _ = clip.encode_regions([state], [whole])
    assert torch.equal(embedded[0], clip.visual(pixels))
    assert torch.equal(clip.image_embeddings([state]), clip.visual(pixels))
    # The trap: without `aligned` the RoI of the same box is shifted by half a cell.
    feature, box = clip.feature_map(pixels), [torch.tensor([[0.0, 0, 64, 64]])]
    assert torch.equal(roi_align(feature, box, 4, 1 / 16, aligned=True), feature)
    assert (roi_align(feature, box, 4, 1 / 16) - feature).norm() / feature.norm() > 0.05


def clip_mean() -> tuple[float, ...]:
    from rgpt.recognizers.geometry import CLIP_MEAN

    return CLIP_MEAN


def clip_std() -> tuple[float, ...]:
    from rgpt.recognizers.geometry import CLIP_STD

    return CLIP_STD


def test_stem_and_first_layer_are_frozen(clip: RegionClip) -> None:
    trained = {n for n, p in clip.named_parameters() if p.requires_grad}
    assert trained and not any(n.startswith(("visual.conv", "visual.layer1")) for n in trained)
    assert not [m for m in clip.visual.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_zero_background_by_hand() -> None:
    found = probabilities(torch.tensor([[1.0, -1.0]]), "softmax_zero_background")
    total = math.e + 1 / math.e + 1
    torch.testing.assert_close(found, torch.tensor([[math.e / total, 1 / math.e / total]]))
    with pytest.raises(InputError, match="background"):
        probabilities(torch.zeros(1, 2), "softmax_background_prompt")


def test_the_contrast_is_a_share_of_the_softmax() -> None:
    torch.manual_seed(0)
    student, bank = torch.randn(6, 8), unit_rows(4, 8)
    concept = torch.tensor([0, 1, 0, 3, 1, 0])
    scores = F.normalize(student, dim=-1) @ bank[concept].T / 0.5
    shares = scores.softmax(1)
    positive = concept[:, None] == concept[None]
    expected = -(shares * positive).sum(1).log().mean()
    torch.testing.assert_close(region_text_contrast(student, concept, bank, 0.5), expected)
    columns = torch.tensor([0, 1, 3])  # the paper's form: each concept once
    scores = F.normalize(student, dim=-1) @ bank[columns].T / 0.5
    target = torch.tensor([0, 1, 0, 2, 1, 0])
    found = region_text_contrast(student, concept, bank, 0.5, dedup=True)
    torch.testing.assert_close(found, F.cross_entropy(scores, target))


def test_the_contrast_does_not_underflow() -> None:
    bank = torch.eye(2)
    loss = region_text_contrast(
        -bank[:1], torch.tensor([0]), bank, 0.001
    )  # alone in its batch: nothing to lose
    assert float(loss) == 0.0
    student = torch.tensor([[0.0, 1.0], [0.0, 1.0]], requires_grad=True)
    loss = region_text_contrast(student, torch.tensor([0, 1]), bank, 0.001)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(500.0) and torch.isfinite(student.grad).all()


def test_distillation() -> None:
    torch.manual_seed(0)
    student, bank = torch.randn(5, 8), unit_rows(7, 8)
    own = F.normalize(student, dim=-1) @ bank.T / 0.01
    assert abs(float(distillation(student, bank, own))) < 1e-6  # student = teacher
    other = torch.randn(5, 7)
    p = other.softmax(-1)
    expected = (p * (p.log() - own.log_softmax(-1))).sum(1).mean()
    torch.testing.assert_close(distillation(student, bank, other), expected)


def test_image_text_contrast() -> None:
    vectors = torch.eye(3)
    assert float(image_text_contrast(vectors, vectors)) < 1e-6
    assert float(image_text_contrast(vectors, vectors.roll(1, 0))) == pytest.approx(100.0)


def test_pseudo_labels_keep_the_sure() -> None:
    bank = torch.eye(20)
    sure, unsure = bank[4] * 9, torch.ones(20)
    labels = pseudo_labels(torch.stack([unsure, sure]), bank)
    assert labels.concept.tolist() == [4] and labels.kept.tolist() == [1] and labels.logits.shape == (1, 20)
    assert pseudo_labels(unsure[None], bank).kept.tolist() == [0]  # if none passes, all are kept


@pytest.mark.parametrize("weighted", [False, True])
def test_focal_scaling(weighted: bool) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 4), torch.tensor([0, 1, 2, 3, 3, 3, 0])
    plain = focal_scaled_cross_entropy(logits, labels, 0.0, 1.0, weighted)
    torch.testing.assert_close(plain, F.cross_entropy(logits, labels))
    weight = torch.tensor([1.0, 1.0, 1.0, 0.2])
    scaled = focal_scaled_cross_entropy(logits, labels, 0.0, 0.2, weighted)
    if weighted:
        torch.testing.assert_close(scaled, F.cross_entropy(logits, labels, weight))
    p = logits.softmax(1)[torch.arange(7), labels]
    expected = ((1 - p) ** 0.5 * -p.log() * weight[labels]).sum() / (weight[labels].sum() if weighted else 7)
    torch.testing.assert_close(focal_scaled_cross_entropy(logits, labels, 0.5, 0.2, weighted), expected)


def test_focal_scaling_is_finite_for_a_sure_class() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    focal_scaled_cross_entropy(logits, torch.tensor([0])).backward()
    assert torch.isfinite(logits.grad).all()


def test_the_transfer_head(clip: RegionClip) -> None:
    """Losses fall when trained on one picture; the test vocabulary is another than the training one."""
    torch.manual_seed(0)
    detector = RegionClipDetector(clip, COCO)
    image = picture(5, 64, 64)
    proposals = RegionSet.of_boxes(
        torch.tensor([[4.0, 4, 30, 30], [4, 4, 30, 31], [4, 3, 30, 30], [30, 30, 60, 60]]),
        64,
        64,
        torch.tensor([0.9, 0.8, 0.1, 0.1]),
    )
    gt = (torch.tensor([[6.0, 5, 33, 32]]), torch.tensor([1]))
    bank = clip.encode_vocabulary(clip.vocabulary(("car", "tree", "dog")))
    state = [s for s in clip.encode_images([image])]
    state[0].maps["feature"] = state[0].maps["feature"].detach()
    optimizer = torch.optim.Adam(detector.box_deltas.parameters(), 0.1)
    history = []
    for _ in range(20):
        losses = detector.losses(state, [proposals], [gt], bank)
        history.append(losses["loss_box"].item())
        optimizer.zero_grad()
        losses["loss_box"].backward()
        optimizer.step()
    # Three proposals lie alike beside their object and the object itself is one more: L1 finds the majority.
    assert history[-1] < 0.7 * history[0] and torch.isfinite(losses["loss_class"])
    found = detector.detect([image], [proposals], clip.vocabulary(("a", "b", "c", "d", "e")))[0]
    assert len(found.boxes) <= COCO.per_image and (found.scores.diff() <= 0).all()
    assert (found.boxes >= 0).all() and (found.boxes <= 64).all() and found.labels.max() < 5
    nothing = detector.detect([image], [RegionSet((), 64, 64)], clip.vocabulary(("a",)))[0]
    assert nothing.boxes.shape == (0, 4)
    assert LVIS.weighted_mean and not COCO.weighted_mean
    no_object = detector.losses(
        state, [proposals], [(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))], bank
    )
    assert float(no_object["loss_box"].detach()) == 0.0 and torch.isfinite(no_object["loss_class"])
