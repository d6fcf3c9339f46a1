"""RefCOCO: the pickle runs nothing, files are named by instances.json, candidates tell no answer away."""

from __future__ import annotations

import json
import pickle
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from data_recipes import refcoco, runner
from rgpt import prompts
from rgpt.errors import InputError
from rgpt.formats.plain_pickle import read_plain_pickle
from rgpt.regions import Box, Polygon


@pytest.fixture
def folder(shared_data: Path) -> Path:
    return shared_data / "refer/refcocog_layout"


def described(sample) -> list[tuple[str, int, str]]:
    """(text of the question, the region answered, the answer) of every referring turn."""
    return [
        (
            turn.question.partition("“")[2].partition("”")[0],
            prompts.parse_region_answer(turn.answer),
            turn.answer,
        )
        for turn in sample.turns
    ]


def test_every_sentence_is_asked_once_each_way(convert, folder: Path) -> None:
    out = convert("refcoco", "--folder", folder, "--refs", "umd", "--images", "train2014")
    refs = [ref for ref in read_plain_pickle(folder / "refs(umd).p") if ref["split"] == "train"]
    sentences = Counter(
        text for ref in refs for text in {" ".join(s["sent"].split()) for s in ref["sentences"]}
    )
    assert out.report["regions_read"] == len(refs) == 14
    captions = [s for s in out.samples if "-caption-" in s.id]
    asked = [s for s in out.samples if "-rec-" in s.id]
    assert Counter(t.answer for s in captions for t in s.turns) == sentences
    assert Counter(text for s in asked for text, _, _ in described(s)) == sentences
    assert out.report["tasks"] == {"brief_caption": sentences.total(), "referring": sentences.total()}


def test_pictures_boxes_and_sentences_belong_together(convert, folder: Path) -> None:
    """The refs' file_name has a suffix and is no picture; the box is instances.json's bbox."""
    out = convert(
        "refcoco", "--folder", folder, "--refs", "umd", "--images", "x", "--split", "all", "--regions", "box"
    )
    content = json.loads((folder / "instances.json").read_text())
    files = {image["id"]: image for image in content["images"]}
    boxes = {a["id"]: a["bbox"] for a in content["annotations"]}
    truth = defaultdict(set)
    for ref in read_plain_pickle(folder / "refs(umd).p"):
        assert ref["file_name"] not in {image["file_name"] for image in content["images"]}
        x, y, w, h = boxes[ref["ann_id"]]
        image = files[ref["image_id"]]
        corners = (max(x, 0), max(y, 0), min(x + w, image["width"]), min(y + h, image["height"]))
        for sentence in ref["sentences"]:
            truth[image["file_name"], " ".join(sentence["sent"].split())].add(
                tuple(round(c, 4) for c in corners)
            )
    matched = none = 0
    for sample in out.samples:
        for question, answer in sample.turns:
            if "-caption-" in sample.id:
                number, text = int(question.partition("<region")[2].partition(">")[0]), answer
            else:
                ((text, number, _),) = [d for d in described(sample) if f"“{d[0]}”" in question]
            known = truth[sample.image.name, text]
            given = [tuple(round(c, 4) for c in region.xyxy) for region in sample.regions]
            if number:
                assert given[number - 1] in known
                matched += 1
            else:
                assert not known & set(given)  # "none of them" is true
                none += 1
    assert matched > 200 and none > 5


def test_referring_conversations(convert, folder: Path) -> None:
    arguments = ("--folder", folder, "--refs", "umd", "--images", "x", "--task", "rec", "--split", "all")
    out = convert("refcoco", *arguments, "--no-match", "0.3", "--candidates", "4", "6")
    numbers = Counter()
    for sample in out.samples:
        assert 2 <= len(sample.regions) <= 6
        assert prompts.REFERRING_GUIDE in sample.turns[0].question
        assert prompts.list_mentions(range(1, len(sample.regions) + 1)) in sample.turns[0].question
        # One picture's instance has a mask, made candidates have none: kinds must not tell them apart.
        assert {type(region) for region in sample.regions} == {Box}
        numbers.update(number for _, number, _ in described(sample))
    # Fewer than asked for only where the picture has no room beside the object.
    assert sum(len(sample.regions) < 4 for sample in out.samples) < 0.3 * len(out.samples)
    total = numbers.total()
    left_out = out.report["repaired"]["referring question left out: no second candidate fits"]
    assert total + left_out == 143  # every sentence of the file
    assert 0.15 < numbers[0] / total < 0.45
    assert all(numbers[n] > 0.05 * total for n in (1, 2, 3))  # the answer is not always the first


def crowded(tmp_path: Path) -> Path:
    """One picture with six people of which three are described, one twin, a crowd and a dog."""
    folder = tmp_path / "refcoco"
    folder.mkdir()
    places = {1: 0, 2: 30, 3: 60, 4: 90, 5: 120, 6: 150}
    annotations = [
        {
            "id": key, "image_id": 7, "category_id": 1, "iscrowd": 0, "bbox": [x, 10, 20, 30],
            "segmentation": [[x, 10, x + 20, 10, x + 20, 40, x, 40]],
        }
        for key, x in places.items()
    ]  # fmt: skip
    twin = {**annotations[0], "id": 8, "bbox": [1, 10, 20, 30]}
    crowd = {
        **annotations[0],
        "id": 9,
        "iscrowd": 1,
        "segmentation": {"size": [50, 200], "counts": [9000, 1000]},
    }
    dog = {**annotations[0], "id": 10, "category_id": 2, "bbox": [100, 5, 8, 8], "segmentation": []}
    image = {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": 50, "width": 200}
    names = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    content = {"images": [image], "annotations": [*annotations, twin, crowd, dog], "categories": names}
    (folder / "instances.json").write_text(json.dumps(content))
    refs = [
        {
            "ref_id": key, "ann_id": key, "image_id": 7, "split": split, "file_name": "x_1.jpg",
            "sentences": [{"sent": f"person {key} {k}", "raw": "R"} for k in range(2)],
        }
        for key, split in ((1, "testA"), (2, "testA"), (3, "testA"), (10, "testB"), (99, "testA"))
    ]  # fmt: skip
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return folder


def test_a_left_out_region_leaves_its_twin_out(convert, tmp_path: Path) -> None:
    folder = crowded(tmp_path)
    arguments = ("--folder", folder, "--refs", "unc", "--images", "x", "--split", "testA", "--task", "rec")
    out = convert("refcoco", *arguments, "--no-match", "1", "--regions", "box")
    lefts = {region.x1 for s in out.samples for region in s.regions}
    assert lefts == {90, 120, 150, 100}  # not 0, 30, 60; not the twin at 1
    assert {answer for s in out.samples for _, _, answer in described(s)} == {prompts.NO_MATCH}
    assert out.report["regions_dropped"] == {"described annotation is missing or unusable": 1}
    both = convert("refcoco", *arguments, "--no-match", "0", "--candidates", "2", "4")
    for sample in both.samples:
        assert len(sample.regions) == 4 and len(sample.turns) <= 3
        assert all(number for _, number, _ in described(sample))
    kinds = Counter(type(region) for sample in both.samples for region in sample.regions)
    assert set(kinds) == {Box, Polygon}  # all have masks here, so both are drawn


@pytest.mark.parametrize(("split", "regions"), [("testA", 4), ("testB", 1), ("test", 5), ("all", 5)])
def test_splits_are_the_official_ones(convert, tmp_path: Path, split: str, regions: int) -> None:
    folder = crowded(tmp_path)
    out = convert("refcoco", "--folder", folder, "--refs", "unc", "--images", "x", "--split", split)
    assert out.report["regions_read"] == regions


def test_names_of_2017_and_the_guard(convert, tmp_path: Path, capsys) -> None:
    folder = crowded(tmp_path)
    arguments = ["--folder", folder, "--refs", "unc", "--images", tmp_path, "--split", "test"]
    out = convert("refcoco", *arguments, "--name-2017")
    assert {s.image.name for s in out.samples} == {"000000000007.jpg"}
    (tmp_path / "eval.txt").write_text("train2017/000000000007.jpg\n")
    options = [*map(str, arguments), "--exclude-images", str(tmp_path / "eval.txt")]
    assert runner.main(refcoco.RECIPE, [*options, "--out", str(tmp_path / "o")]) == 2
    assert "1 in --exclude-images" in capsys.readouterr().err


def test_the_untouched_record_of_python_2(shared_data: Path) -> None:
    (ref,) = read_plain_pickle(shared_data / "refer/refs(unc).sample.p")
    assert ref == json.loads((shared_data / "refer/refs(unc).sample.json").read_text())[0]


class Evil:
    def __reduce__(self) -> tuple:
        return print, ("this must not be printed",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, capsys, protocol: int) -> None:
    for value in ([Evil()], {"a": Path("x")}, [print]):
        (tmp_path / "evil.p").write_bytes(pickle.dumps(value, protocol=protocol))
        with pytest.raises(InputError, match="lists, dicts, strings and numbers only"):
            read_plain_pickle(tmp_path / "evil.p")
    plain = [{"a": [1, 2.5, "é", None, True], "b": ("x",)}]
    (tmp_path / "plain.p").write_bytes(pickle.dumps(plain, protocol=protocol))
    assert read_plain_pickle(tmp_path / "plain.p") == plain
    assert "printed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2, 3])[:-3], b"\x80\x02Q."])
def test_a_broken_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.p").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.p"):
        read_plain_pickle(tmp_path / "broken.p")


def test_other_pickles_and_splits_are_refused(tmp_path: Path) -> None:
    folder = crowded(tmp_path)
    with pytest.raises(InputError, match=r"expected one of testA, testB, got a split"):
        refcoco.read_refs(folder / "refs(unc).p", "val")
    (tmp_path / "other.p").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match=r"a list of dicts with ref_id"):
        refcoco.read_refs(tmp_path / "other.p", "val")
