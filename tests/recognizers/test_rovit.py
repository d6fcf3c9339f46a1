"""RO-ViT: exact checks of positions, loss, ensemble, targets, coding; the detector's contract."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rgpt.errors import InputError
from rgpt.recognizers.centerness_rpn import CenternessRpn, paired_iou, score_targets
from rgpt.recognizers.cropped_positions import crop_positions, random_crops, upsample, whole_positions
from rgpt.recognizers.detection_parts import centerness, decode_ltrb, encode_ltrb, sample_rois
from rgpt.recognizers.ensemble import ensemble, shrink_boxes
from rgpt.recognizers.focal_contrast import focal_contrastive_loss
from rgpt.recognizers.rovit import SIZES, Block, RoVit, RoVitConfig, RoVitTower, global_blocks
from rgpt.recognizers.rovit_detector import (
    DetectorConfig,
    NormalizedLinear,
    RoVitDetector,
    SimplePyramid,
    Target,
)
from rgpt.recognizers.vocabulary import Vocabulary
from tests.recognizers.tiny_recognizers import make, picture


@pytest.mark.parametrize(("size", "millions"), [("B", 85.80), ("L", 303.30), ("H", 630.92)])
def test_tower_sizes(size: str, millions: float) -> None:
    width, depth, heads = SIZES[size]
    with torch.device("meta"):
        tower = RoVitTower(RoVitConfig(width=width, depth=depth, heads=heads))
    count = sum(p.numel() for p in tower.parameters())
    print(f"RO-ViT {size}/16: {count:,}")
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


def bilinear(grid: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """The value of `[h, w, d]` at index coordinates, clamped to the border."""
    h, w = grid.shape[:2]
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    dy, dx = y - top, x - left
    upper = grid[top, left] * (1 - dx) + grid[top, right] * dx
    lower = grid[bottom, left] * (1 - dx) + grid[bottom, right] * dx
    return upper * (1 - dy) + lower * dy


@pytest.mark.parametrize("aligned", [True, False])
def test_cropped_positions_are_literal_bilinear_samples(aligned: bool) -> None:
    torch.manual_seed(0)
    positions = torch.randn(7, 7, 5)
    crop = torch.tensor([[9.0, 20.0, 41.0, 63.0]])
    found = crop_positions(positions, crop, aligned)[0]
    grid, shift = upsample(positions), 0.5 if aligned else 0.0
    for i in range(7):
        for j in range(7):
            y = 20 + (i + 0.5) * (63 - 20) / 7 - shift
            x = 9 + (j + 0.5) * (41 - 9) / 7 - shift
            torch.testing.assert_close(found[i, j], bilinear(grid, y, x), atol=1e-5, rtol=1e-5)


def test_upsampling_written_out() -> None:
    torch.manual_seed(1)
    positions = torch.randn(4, 4, 3)
    found = upsample(positions)
    for i, j in ((0, 0), (5, 40), (63, 63), (31, 8)):
        expected = bilinear(positions, (i + 0.5) / 16 - 0.5, (j + 0.5) / 16 - 0.5)
        torch.testing.assert_close(found[i, j], expected, atol=1e-5, rtol=1e-5)


def test_a_full_size_crop_is_not_the_table_itself() -> None:
    """A trap kept visible: parity sampling is further away than aligned sampling."""
    torch.manual_seed(0)
    smooth = whole_positions(torch.randn(4, 4, 8), 14, 14)
    whole = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    error = [
        float((crop_positions(smooth, whole, a)[0] - smooth).norm() / smooth.norm()) for a in (True, False)
    ]
    assert 0 < error[0] < error[1] < 0.3
    assert whole_positions(smooth, 14, 14) is smooth
    assert whole_positions(smooth, 9, 20).shape == (9, 20, 8)


def test_positions_that_shrink_all_count() -> None:
    """jax.image.resize, bilinear: 4 cells to 2 weigh by 1 - |distance| / 2, normalised: 3, 3, 1, 0 of 7."""
    row = torch.tensor([7.0, 14.0, 0.0, 70.0])
    found = whole_positions(row[None, :, None].expand(4, 4, 1), 4, 2)[0, :, 0]
    assert found.tolist() == pytest.approx([9.0, 32.0])  # (3*7 + 3*14 + 0)/7, (14 + 3*0 + 3*70)/7
    grown = whole_positions(row[None, :, None].expand(4, 4, 1), 4, 8)[0, :, 0]
    assert grown[:4].tolist() == pytest.approx([7.0, 8.75, 12.25, 10.5])  # 3/4 and 1/4, the border held


@pytest.mark.parametrize(("sampler", "mean"), [("resized_crop", 0.436), ("corners", 0.21)])
def test_crop_samplers(sampler: str, mean: float) -> None:
    torch.manual_seed(0)
    crops = random_crops(1500, sampler)
    size = crops[:, 2:] - crops[:, :2]
    area = size.prod(1) / 64**2
    assert (crops >= 0).all() and (crops <= 64).all() and (area > 0.09).all()
    assert float(area.mean()) == pytest.approx(mean, abs=0.025)
    if sampler == "resized_crop":
        aspect = size[:, 0] / size[:, 1]
        assert float(aspect.min()) > 0.45 and float(aspect.max()) < 2.2
    assert random_crops(0, sampler).shape == (0, 4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_gradient(gamma: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    target = torch.rand(5, 7) > 0.7
    focal_contrastive_loss(logits, target, gamma, divide_by=1.0).backward()
    sign = torch.where(target, 1.0, -1.0).to(logits)
    p = torch.sigmoid(sign * logits.detach())
    by_hand = (
        sign * (1 - p) ** gamma * (gamma * p * p.log() - (1 - p))
    )  # s (1 - p_t)^γ [γ p_t log p_t - (1 - p_t)]
    torch.testing.assert_close(logits.grad, by_hand, atol=1e-12, rtol=1e-9)


def test_focal_loss_is_siglip_without_focus_and_stable() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 6)
    sign = 2 * torch.eye(6) - 1
    torch.testing.assert_close(
        focal_contrastive_loss(logits, gamma=0.0), -F.logsigmoid(sign * logits).sum() / 6
    )
    assert focal_contrastive_loss(logits, gamma=1.0) < focal_contrastive_loss(logits, gamma=0.0)
    far = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = focal_contrastive_loss(far)
    loss.backward()
    assert float(loss.detach()) == 0.0 and torch.isfinite(far.grad).all()


def test_ensemble() -> None:
    torch.manual_seed(0)
    p, z = torch.randn(4, 6).softmax(1), torch.randn(4, 6).softmax(1)
    is_base = torch.tensor([True, True, False, False, False])
    found = ensemble(p, z, is_base)
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    ratio = found[:, 1:] / found[:, :1]  # free of the renormalisation
    w = torch.where(is_base, 0.35, 0.65)
    torch.testing.assert_close(ratio, p[:, 1:] ** (1 - w) * z[:, 1:] ** w / p[:, :1])
    torch.testing.assert_close(ensemble(p, z, is_base, 0.0, 0.0), p)
    torch.testing.assert_close(ensemble(p, z, None), ensemble(p, z, torch.zeros(5, dtype=torch.bool)))


def test_a_novel_class_gains_from_the_frozen_tower() -> None:
    """The detector has never seen class 2 and calls it background; the frozen tower knows it."""
    p, z = torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[0.05, 0.05, 0.9]])
    is_base = torch.tensor([True, False])
    with_z = ensemble(p, z, is_base)
    assert with_z[0, 2] > p[0, 2] and with_z[0, 2] > with_z[0, 1]
    without = ensemble(p, p, is_base)
    torch.testing.assert_close(without, p)


def test_centerness() -> None:
    anchors = torch.tensor([[4.0, 4, 8, 8]]).repeat(5, 1)
    boxes = torch.tensor([[0.0, 0, 12, 12], [6, 0, 12, 12], [7, 7, 9, 9], [3, 0, 12, 12], [0, 0, 9, 12]])
    found = centerness(anchors, boxes)
    assert found[0] == 1 and found[1] == 0 and found[2] == 0  # centre, on the border, outside
    torch.testing.assert_close(found[3], found[4])  # symmetric
    torch.testing.assert_close(found[3], torch.tensor(3 / 6).sqrt())


def test_ltrb_round_trip_and_order() -> None:
    torch.manual_seed(0)
    corner, size = torch.rand(20, 2) * 50, torch.rand(20, 2) * 40 + 1
    boxes = torch.cat([corner, corner + size], 1)
    anchors = torch.cat([corner.roll(1, 0), corner.roll(1, 0) + 32], 1)
    torch.testing.assert_close(decode_ltrb(anchors, encode_ltrb(anchors, boxes)), boxes, atol=1e-3, rtol=1e-5)
    found = encode_ltrb(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[3.0, 1, 9, 25]]))
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.4, 0.4, 2.0]]))  # left, top, right, bottom


def test_score_targets() -> None:
    gt = torch.tensor([[0.0, 0, 32, 32]])
    anchors = torch.tensor([[0.0, 0, 32, 32], [200, 200, 232, 232], [20, 0, 52, 32], [8, 0, 40, 32]])
    labels, wanted = score_targets(anchors, gt)
    assert labels.tolist() == [1, 0, -1, 1]  # IoU 1, 0, 0.23, 0.6
    assert wanted[0] == 1 and wanted[1] == 0 and 0 < wanted[3] < 1
    none, zeros = score_targets(anchors, torch.zeros(0, 4))
    assert not none.any() and not zeros.any()


def test_paired_iou() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 4, 4]])
    b = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [0, 0, 9, 9]])
    torch.testing.assert_close(paired_iou(a, b), torch.tensor([1.0, 1 / 3, 0.0]))


def test_nothing_is_suppressed_at_test_time() -> None:
    rpn = CenternessRpn(8).eval()
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 3 + [[20.0, 20, 40, 40]])
    scores = torch.tensor([1.0, 0.5, 0.2, 0.9])
    rpn.nms_thresh = rpn.nms_testing
    kept, _ = rpn.filter_proposals(boxes[None], scores, [(64, 64)], [4])
    assert len(kept[0]) == 4
    rpn.nms_thresh = rpn.nms_training
    assert len(rpn.filter_proposals(boxes[None], scores, [(64, 64)], [4])[0][0]) == 2


def test_sampled_rois() -> None:
    gt, labels = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([7])
    proposals = torch.tensor([[0.0, 0, 9, 10], [50, 50, 60, 60], [0, 0, 4, 10]])
    rois = sample_rois(proposals, gt, labels)
    assert rois.labels.tolist() == [7, -1, -1, 7]  # the ground truth itself joins
    assert sample_rois(proposals, gt, labels, count=2, positive_fraction=0.5).labels.tolist().count(7) == 1
    empty = sample_rois(proposals, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assert empty.labels.tolist() == [-1] * 3


def test_windows_see_only_themselves() -> None:
    torch.manual_seed(0)
    block = Block(8, 2).eval()
    grid = torch.randn(1, 4, 8, 8)
    changed = grid.clone()
    changed[:, :, 4:] += 1.0
    windowed, other = block(grid, 4), block(changed, 4)
    assert torch.equal(windowed[:, :, :4], other[:, :, :4])
    assert not torch.equal(block(grid)[:, :, :4], block(changed)[:, :, :4])
    torch.testing.assert_close(windowed[:, :, :4], block(grid[:, :, :4]))
    with pytest.raises(InputError, match="windows of 3 cells"):
        block(grid, 3)


@pytest.mark.parametrize(
    ("depth", "expected"), [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (32, (7, 15, 23, 31))]
)
def test_global_blocks(depth: int, expected: tuple[int, ...]) -> None:
    assert global_blocks(depth) == expected


def test_normalised_linear_ignores_scale() -> None:
    layer, x = NormalizedLinear(6, 3), torch.randn(4, 6)
    torch.testing.assert_close(layer(x * 7), layer(x))
    assert layer(x).abs().max() <= 20 + 1e-4
    torch.testing.assert_close(layer(x[:, :, None, None])[..., 0, 0], layer(x))


def test_pyramid_levels() -> None:
    levels = SimplePyramid(16, 8)(torch.randn(2, 16, 4, 4))
    assert [tuple(level.shape) for level in levels.values()] == [(2, 8, s, s) for s in (16, 8, 4, 2)]


def test_shrunk_boxes_keep_their_centre() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 20]])
    torch.testing.assert_close(shrink_boxes(boxes, 0.5), torch.tensor([[2.5, 5, 7.5, 15]]))
    assert torch.equal(shrink_boxes(boxes, 1.0), boxes)


def tiny_detector() -> RoVitDetector:
    recognizer: RoVit = make("rovit")  # type: ignore[assignment]
    return RoVitDetector(
        recognizer, DetectorConfig(channels=16, fully_connected=16, rois=32, per_image=20, floor=1e-6)
    )


def test_detector_contract() -> None:
    detector = tiny_detector().eval()
    vocabulary = Vocabulary(("red", "blue", "green"), is_base=(True, False, True))
    found = detector.detect([picture(), picture(2, 64, 30)], vocabulary)
    for one, (width, height) in zip(found, ((50, 40), (64, 30)), strict=True):
        count = len(one.boxes)
        assert 0 < count <= 20 and (one.scores.diff() <= 0).all()
        assert len(one.masks) == count and {m.size for m in one.masks if m} <= {(height, width)}
        assert len(one.region) == count
        assert (one.boxes[:, 0::2] <= width).all() and (one.boxes[:, 1::2] <= height).all()
    with pytest.MonkeyPatch.context() as patch:  # masks are pasted in blocks
        patch.setattr("rgpt.recognizers.rovit_detector.MASK_BLOCK", 3)
        assert detector.detect([picture()], vocabulary)[0].masks == found[0].masks
    assert any(found[0].masks)
    bare = detector.detect([picture()], vocabulary, masks=False)[0]
    assert bare.masks is None and torch.equal(bare.scores, found[0].scores)
    proposals = detector.propose([picture()])[0]
    assert len(proposals) and proposals.scores is not None and proposals.logits is not None
    torch.testing.assert_close(proposals.logits.sigmoid(), proposals.scores)


@torch.no_grad()
def test_the_frozen_tower_looks_where_a_region_was_proposed() -> None:
    """F-VLM's head pools z from its proposals; how far the box head moves them changes boxes, not scores."""
    detector = tiny_detector().eval()
    detector.config.nms, detector.config.per_image, detector.config.floor = 1.0, 10_000, 0.0
    vocabulary = Vocabulary(("red", "blue"), is_base=(True, False))
    found = []
    for shift in (0.0, 2.0):  # tenths of a box's width, to the right
        detector.box_head.deltas.bias[0] = shift
        found.append(detector.detect([picture()], vocabulary, masks=False)[0])
    assert (found[0].boxes[:, 0].mean() - found[1].boxes[:, 0].mean()).abs() > 1
    scores = [
        {(int(r), int(n)): float(s) for r, n, s in zip(f.region, f.labels, f.scores, strict=True)}
        for f in found
    ]
    assert scores[0].keys() & scores[1].keys() and all(
        scores[0][key] == pytest.approx(scores[1][key], rel=1e-5)
        for key in scores[0].keys() & scores[1].keys()
    )


def test_detector_step_trains_all_but_the_frozen_copy() -> None:
    detector = tiny_detector().train()
    frozen = {n: p.clone() for n, p in detector.recognizer.state_dict().items()}
    bank = detector.named.encode_vocabulary(detector.named.vocabulary(("red", "blue")))
    masks = torch.zeros(1, 64, 64)
    masks[:, 8:40, 8:40] = 1
    targets = [
        Target(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]), masks),
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 64, 64)),
    ]
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], 0.01)
    losses = detector.losses(torch.rand(2, 3, 64, 64), targets, bank)
    assert set(losses) == {"loss_rpn_score", "loss_rpn_box", "loss_class", "loss_box", "loss_mask"}
    sum(losses.values()).backward()
    without = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    optimizer.step()
    assert all(torch.equal(value, frozen[name]) for name, value in detector.recognizer.state_dict().items())
    assert not detector.recognizer.module.training


def test_backbone_gradient_is_scaled() -> None:
    gradients = []
    for rate in (1.0, 0.1):
        torch.manual_seed(0)
        detector = tiny_detector().eval()
        detector.config.backbone_rate = rate
        levels = detector.pyramid_features(torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64))
        sum((level * level.roll(1, -1)).mean() for level in levels.values()).backward()
        gradients.append(detector.tower.norm.weight.grad.norm())
    torch.testing.assert_close(gradients[1], gradients[0] * 0.1, rtol=1e-3, atol=1e-7)
