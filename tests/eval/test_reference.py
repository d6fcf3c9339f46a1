"""Every published figure that `eval.reference` computes, to all digits given."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval import reference
from eval.reference import SETS, Figure, figures

SLOW = ("google_refexp_classname_baseline",)  # 2,500 captions


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SETS]
)
def test_published_figures(shared_data: Path, name: str) -> None:
    found = list(figures(shared_data, name))
    assert found
    assert not [figure for figure in found if not figure.reproduced]


@pytest.mark.parametrize(
    "published, ours, same",
    [
        (0.83, 0.8299999, True),
        (0.83, 0.8251, True),
        (0.83, 0.8399, True),  # cut, not rounded
        (0.83, 0.8401, False),
        (0.83, 0.8249, False),
        (0.2456866804, 0.24568668046928915, True),
        (0.3418661540393632, 0.3418661540393632, True),
        (0.3418661540393632, 0.3418661550393632, False),
        (203, 203, True),
        (203, 204, False),
        (-1.0, -1.0, True),
    ],
)
def test_what_counts_as_reproduced(published: float, ours: float, same: bool) -> None:
    assert Figure("set", "name", published, ours).reproduced is same


def test_the_table(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--data", str(shared_data), "--only", "dlc_dam_3b_v1_judged"]) == 0
    assert "3 of 3 figures reproduced" in capsys.readouterr().out
    assert reference.main(["--data", str(shared_data / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
