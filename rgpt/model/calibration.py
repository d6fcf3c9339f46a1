"""How sure a model is made to mean how often it is right: `calibration.json` beside its weights.

    {"name": {"temperature": 1.4, "objects": 1186, "pictures": 340,
              "error_before": 0.14, "error_after": 0.04, "bins": [[0.31, 0.28, 79], …]}}

Shares are a softmax of log-likelihoods; dividing those by one number, fitted on held-out answers, keeps the
order and mends the sureness (temperature scaling, Guo et al. 2017, arXiv 1706.04599). One number a task:
`name` for names from a list, `yes_no` for "Yes." against "No.". `bins` are (mean share, share that was right,
answers) of answers on pictures that the temperature was not fitted on.

The file speaks of the weights it lies beside: what is trained on top of them has none of it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rgpt.errors import InputError
from rgpt.files import write_text

FILE = "calibration.json"
TASKS = ("name", "yes_no")
BINS = 15
Bin = tuple[float, float, int]
"""Mean share of the likeliest answer, share of answers that were right, how many."""


@dataclass(frozen=True)
class Calibration:
    """One task's temperature and what it was measured on; without arguments, shares as they are."""

    temperature: float = 1.0
    objects: int = 0
    pictures: int = 0
    error_before: float = 0.0
    error_after: float = 0.0
    bins: tuple[Bin, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.error_before, self.error_after)
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) or self.temperature <= 0:
            raise InputError.about("calibration", "a temperature above 0", repr(self.temperature))
        object.__setattr__(self, "bins", tuple((float(a), float(b), int(n)) for a, b, n in self.bins))

    def shares(self, log_likelihoods: Mapping[str, float]) -> dict[str, float]:
        """Shares of 1, the largest first: a softmax at this temperature."""
        top = max(log_likelihoods.values())
        weights = {key: math.exp((v - top) / self.temperature) for key, v in log_likelihoods.items()}
        total = math.fsum(weights.values())
        ordered = sorted(weights.items(), key=lambda pair: -pair[1])
        return {key: weight / total for key, weight in ordered}


def read_calibration(folder: str | Path) -> dict[str, Calibration]:
    """By task, what the folder's file says; nothing where there is none.

    Raises:
        InputError: it is damaged, or has other tasks or keys.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return {}
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        if unknown := sorted(set(said) - set(TASKS)):
            raise TypeError(f"unknown task {unknown[0]!r}")
        return {task: Calibration(**fields) for task, fields in said.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{file} cannot be used ({error}): fit it again.") from error


def write_calibration(folder: str | Path, calibration: Mapping[str, Calibration]) -> None:
    """The file that `read_calibration` reads, whole or not at all."""
    lines = [f" {json.dumps(task)}: {json.dumps(asdict(fitted))}" for task, fitted in calibration.items()]
    write_text(Path(folder) / FILE, "{\n" + ",\n".join(lines) + "\n}\n")


def equal_bins(answers: Sequence[tuple[float, bool]], bins: int = BINS) -> tuple[Bin, ...]:
    """(share, right) pairs in bins of equal count, by share; without the empty ones."""
    ordered = sorted(answers)
    edges = [len(ordered) * k // bins for k in range(bins + 1)]
    parts = [ordered[a:b] for a, b in itertools.pairwise(edges) if b > a]
    return tuple(
        (math.fsum(s for s, _ in part) / len(part), sum(right for _, right in part) / len(part), len(part))
        for part in parts
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean distance of share and truth over bins, by their counts."""
    total = sum(n for _, _, n in bins)
    return math.fsum(n * abs(share - right) for share, right, n in bins) / total if total else 0.0


def fit_temperature(rows: Sequence[tuple[Mapping[str, float], str]]) -> float:
    """The temperature at which the right answers are likeliest.

    Args:
        rows: (log-likelihoods of the answers, the right one). Rows in which it is not listed say nothing.

    Raises:
        InputError: no row lists its right answer.
    """
    known = [(row, right) for row, right in rows if right in row]
    if not known:
        raise InputError("There is nothing to fit a temperature on: no right answer is among those ranked.")

    def loss(log_temperature: float) -> float:
        at = Calibration(math.exp(log_temperature))
        return -math.fsum(math.log(max(at.shares(row)[right], 1e-300)) for row, right in known)

    # The loss is convex in 1 / temperature, so it has one valley: golden section.
    low, high, golden = math.log(0.05), math.log(20.0), (math.sqrt(5) - 1) / 2
    while high - low > 1e-3:
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return round(math.exp((low + high) / 2), 4)
