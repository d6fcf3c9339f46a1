"""The benchmark of many regions: both ways are compared on the same questions, and disagreement is shown."""

from __future__ import annotations

from typing import Any

import pytest

from scripts import bench, bench_regions


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_regions, "COUNTS", (1, 2))
    for name, value in (("MASKS", 3), ("CHANNELS", 4), ("GRID", 6)):
        monkeypatch.setattr(bench_regions, name, value)


def run(capsys: pytest.CaptureFixture[str]) -> str:
    assert bench.main(["regions", "--repeats", "1", "--threads", "1", "--max-new-tokens", "3"]) == 0
    return capsys.readouterr().out


def test_every_quantity_is_printed(small: None, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys)
    for name in ("2 regions, the same answers", "pooling, ratio", "peak memory, one product"):
        assert name in text
    assert "DIFFER" not in text


def test_answers_that_differ_are_said_to(
    small: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rgpt.chat import ChatSession

    real = ChatSession.ask_many

    def wrong(self: ChatSession, *args: Any, **options: Any) -> dict[int, str]:
        return {n: text + "!" for n, text in real(self, *args, **options).items()}

    monkeypatch.setattr(ChatSession, "ask_many", wrong)
    assert "2 regions, ANSWERS DIFFER" in run(capsys)


@pytest.mark.parametrize(("encode_once", "pictures"), [(False, 3), (True, 1)])
def test_one_by_one_encodes_the_picture_as_often_as_it_says(
    encode_once: bool, pictures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rgpt.model import load

    network, processor = load("tiny", device="cpu")
    image, regions = bench_regions.regions_of_a_scene(3)
    encoded, encode = [], network.model.encode

    def count(pixels: Any) -> Any:
        encoded.append(pixels)
        return encode(pixels)

    monkeypatch.setattr(network.model, "encode", count)
    asked = {"question": bench_regions.QUESTION, "max_new_tokens": 3}
    compare = bench_regions.Comparison(network, processor, image, asked, 1, "cpu", encode_once)
    verdict = list(compare(regions))[-1]
    assert "the same answers" in verdict.name
    assert len(encoded) == pictures + 1  # ask_many's own


def test_regions_are_as_many_as_asked_for_and_lie_in_the_picture() -> None:
    image, regions = bench_regions.regions_of_a_scene(30)
    assert len(regions) == 30 and len(set(regions)) == 30
    for region in regions:
        region.check_inside(image.height, image.width)
