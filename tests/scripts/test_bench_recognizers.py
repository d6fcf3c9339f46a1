"""The benchmark of recognizers: what is counted, what is timed, what is refused."""

from __future__ import annotations

import pytest

from scripts import bench, bench_recognizers


def test_counts_stand_beside_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    text = bench_recognizers.parameter_table()
    for figure in ("24,226,304", "38,853,376", "the paper says 35 M", "38,022,144 of 38,316,896"):
        assert figure in text


def test_every_recognizer_is_timed_in_one_call(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["recognizers", "--size", "tiny", "--regions", "3", "--repeats", "1", "--threads", "1"]
    assert bench.main(words) == 0
    text = capsys.readouterr().out
    for name in bench_recognizers.configs("tiny"):
        bounded = "≤ 3" in next(line for line in text.splitlines() if line.startswith(f"{name}, ratio"))
        assert bounded == (name not in bench_recognizers.CROPS)
    with pytest.raises(SystemExit, match="clip-crup"):
        bench.main([*words, "--only", "clip-crup"])
