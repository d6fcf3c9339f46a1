"""The stacked Muon is Muon: near-orthogonal updates, the library's direction, matrices only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rgpt.train.tiny.muon import StackedMuon, orthogonalise

SHAPES = [(1, 8, 8), (3, 16, 64), (2, 64, 16), (4, 5, 40)]


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_are_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    out = orthogonalise(torch.randn(shape) * 3.0)
    values = torch.linalg.svdvals(out)
    assert out.shape == shape
    # The quintic ends anywhere in 0.7 .. 1.2; the smallest values of a square matrix are still on their way.
    assert values.max() < 1.3 and values.median() > 0.6
    if shape[1] != shape[2]:
        assert values.min() > 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_vectors_are_kept(shape: tuple[int, int, int]) -> None:
    """U f(S) Vᵀ for U S Vᵀ: in the basis of the singular vectors the result is diagonal and positive."""
    torch.manual_seed(1)
    matrices = torch.randn(shape, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    inner = u.mT @ orthogonalise(matrices) @ vt.mT
    diagonal = torch.diagonal(inner, dim1=1, dim2=2)
    assert torch.allclose(inner, torch.diag_embed(diagonal), atol=1e-9) and (diagonal > 0).all()


def test_stacked_equals_one_by_one_scale_plays_no_part_and_transposes_agree() -> None:
    torch.manual_seed(2)
    matrices = torch.randn(5, 12, 20, dtype=torch.float64)
    together = orthogonalise(matrices)
    assert torch.allclose(together, torch.cat([orthogonalise(m[None]) for m in matrices]))
    assert torch.allclose(together, orthogonalise(matrices * 1e4))
    assert torch.allclose(together.mT, orthogonalise(matrices.mT.contiguous()))
    assert torch.equal(orthogonalise(torch.zeros(1, 4, 4)), torch.zeros(1, 4, 4))


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_the_update_has_the_direction_of_torchs_muon(shape: tuple[int, int]) -> None:
    """Several steps, so that momentum counts; torch works in bfloat16, hence the tolerance."""
    torch.manual_seed(3)
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.01}
    mine = StackedMuon([ours], **settings)
    library = torch.optim.Muon([theirs], nesterov=True, adjust_lr_fn="match_rms_adamw", **settings)
    for _ in range(4):
        before = ours.detach().clone(), theirs.detach().clone()
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        mine.step()
        library.step()
        a, b = ours.detach() - before[0], theirs.detach() - before[1]
        assert torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.998
        assert abs(float(a.norm() / b.norm()) - 1) < 0.03


def test_equal_shapes_in_one_stack_do_not_mix() -> None:
    """Two parameters together step exactly as each alone would."""
    torch.manual_seed(4)
    starts, grads = torch.randn(2, 6, 10), torch.randn(3, 2, 6, 10)

    def run(which: list[int]) -> list[torch.Tensor]:
        parameters = [nn.Parameter(starts[i].clone()) for i in which]
        optimizer = StackedMuon(parameters, lr=0.01)
        for grad in grads:
            for parameter, i in zip(parameters, which, strict=True):
                parameter.grad = grad[i].clone()
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    both = run([0, 1])
    assert torch.allclose(both[0], run([0])[0], atol=1e-6) and torch.allclose(both[1], run([1])[0], atol=1e-6)


def test_a_parameter_without_gradient_stays() -> None:
    still, moving = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    optimizer = StackedMuon([still, moving], lr=0.1)
    moving.grad = torch.randn(3, 4)
    optimizer.step()
    assert torch.equal(still, torch.ones(3, 4)) and not torch.equal(moving, torch.ones(3, 4))


def test_it_descends() -> None:
    """Least squares with a known answer."""
    torch.manual_seed(5)
    target, weight = torch.randn(8, 16), nn.Parameter(torch.zeros(8, 16))
    optimizer = StackedMuon([weight], lr=0.05, weight_decay=0.0)
    for _ in range(300):
        optimizer.zero_grad()
        ((weight - target) ** 2).sum().backward()
        optimizer.step()
    assert float((weight.detach() - target).norm() / target.norm()) < 0.2


@pytest.mark.parametrize("parameter", [nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(2, 3, 4))])
def test_vectors_are_refused(parameter: nn.Parameter) -> None:
    with pytest.raises(ValueError, match="matrices only"):
        StackedMuon([nn.Parameter(torch.ones(2, 2)), parameter], lr=0.1)
