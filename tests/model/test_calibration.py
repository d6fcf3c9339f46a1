"""One number a task makes shares mean what they say."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from eval.calibrate import main as calibrate
from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.model.calibration import (
    Calibration,
    calibration_error,
    equal_bins,
    fit_temperature,
    read_calibration,
    write_calibration,
)
from rgpt.regions import Box


def drawn(count: int, temperature: float, seed: int = 0) -> list[tuple[dict[str, float], str]]:
    """Rows whose right answers are drawn at a temperature."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        row = {name: rng.gauss(0, 3) for name in "abcdef"}
        at = Calibration(temperature).shares(row)
        rows.append((row, rng.choices(list(at), list(at.values()))[0]))
    return rows


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_the_temperature_is_found_again(temperature: float) -> None:
    assert fit_temperature(drawn(4000, temperature)) == pytest.approx(temperature, rel=0.08)


def test_shares_keep_their_order_and_sum_to_one() -> None:
    row = {"a": -900.0, "b": -901.0, "c": -1900.0}
    for temperature in (0.3, 1.0, 7.0):
        shares = Calibration(temperature).shares(row)
        assert list(shares) == ["a", "b", "c"] and math.fsum(shares.values()) == pytest.approx(1)
    assert Calibration(2.0).shares(row)["a"] < Calibration(1.0).shares(row)["a"]


def test_bins_of_equal_count_and_their_error() -> None:
    answers = [(0.1, False), (0.9, True), (0.8, True), (0.2, False), (0.7, False), (0.3, True)]
    bins = equal_bins(answers, 3)
    assert [n for _, _, n in bins] == [2, 2, 2] and bins[0][:2] == pytest.approx((0.15, 0.0))
    assert calibration_error(bins) == pytest.approx((0.15 + 0.0 + 0.15) / 3)
    assert equal_bins([(0.5, True)]) == ((0.5, 1.0, 1),) and calibration_error(()) == 0


def write_run(folder: Path, temperature: float) -> Path:
    """Predictions as `eval.run photographs` leaves them, of names that are surer than right."""
    folder.mkdir()
    rows = []
    for number, (row, right) in enumerate(drawn(3000, temperature)):
        shares = Calibration().shares(row)
        rows.append(
            {"id": str(number), "kind": "name", "image_id": number // 4, "scores": shares, "truth": right}
        )
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_command_fits_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    assert calibrate([str(write_run(tmp_path / "run", 2.0)), "--write", str(tmp_path / "model")]) == 0
    fitted = read_calibration(tmp_path / "model")["name"]
    assert fitted.temperature == pytest.approx(2.0, rel=0.1) and fitted.pictures == 750
    assert fitted.error_after < 0.05 < 0.1 < fitted.error_before
    assert f"{fitted.error_after:.4f}" in capsys.readouterr().out
    for arguments, told in (
        ([str(tmp_path / "nowhere")], "a finished run"),
        ([str(tmp_path / "run"), str(tmp_path / "run")], "give it alone"),
        ([str(tmp_path / "run"), "--write", str(tmp_path / "none")], "a model's folder"),
    ):
        assert calibrate(arguments) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"mood": {}}', '{"name": {"temperature": 0}}', '{"name": {"temperature": "2"}}',
     '{"name": {"heat": 2}}', '{"name": {"bins": [[1]]}}', '{"name": {"temperature": NaN}}'],
)  # fmt: skip
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(InputError):
        read_calibration(tmp_path)


def test_a_session_says_its_names_at_the_temperature() -> None:
    session = ChatSession.from_pretrained("tiny")
    session.set_image("app/static/photographs/coffee.jpg")
    session.add_region(Box(10, 10, 200, 200))
    (plain,) = session.name_shares(["What is <region1>?"])
    session.model.calibration = {"name": Calibration(3.0)}
    (calm,) = session.name_shares(["What is <region1>?"])
    assert next(iter(plain)) == next(iter(calm)) and max(calm.values()) < max(plain.values())
    again = Calibration(3.0).shares({name: math.log(share) for name, share in plain.items()})
    assert calm == pytest.approx(again, abs=1e-3)


def test_the_embedded_model_is_calibrated(tmp_path: Path) -> None:
    fitted = read_calibration("rgpt/model/photo")
    assert fitted["name"].error_after <= 0.05 < fitted["name"].error_before
    write_calibration(tmp_path, fitted)
    assert read_calibration(tmp_path) == fitted
