"""The leakage guard: one photograph under all its names, lists from every kind of evaluation set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_recipes import eval_pictures
from data_recipes.pictures import keys_of_file, read_keys


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("COCO_val2014_000000580294.jpg", {"coco:580294"}),
        ("val2017/000000580294.jpg", {"coco:580294"}),
        ("COCO_train2014_000000380440_491042.jpg", {"coco:380440"}),  # RefCOCO's suffix
        ("coco/train2017/000000033471.jpg", {"coco:33471"}),
        ("VG_100K/2342728.jpg", {"vg:2342728", "file:2342728.jpg"}),
        ("vg/VG_100K_2/1.jpg", {"vg:1", "file:1.jpg"}),
        ("gqa/images/1.jpg", {"vg:1", "file:1.jpg"}),
        ("00453/004539375.jpg", {"file:004539375.jpg"}),  # nine digits are not COCO's
        ("images\\v1\\objects365_v1_00420917.jpg", {"file:objects365_v1_00420917.jpg"}),
        ("textvqa/train_images/0a1b.jpg", {"file:0a1b.jpg"}),
    ],
)
def test_keys(name: str, keys: set[str]) -> None:
    assert set(keys_of_file(name)) == keys


def build(tmp_path: Path, *arguments: object) -> frozenset[str]:
    out = tmp_path / "lists" / "eval.txt"
    assert eval_pictures.main([*map(str, arguments), "--out", str(out)]) == 0
    return read_keys([out])


def test_real_evaluation_sets(shared_data: Path, tmp_path: Path) -> None:
    coco = shared_data / "coco_val2014_100/instances_val2014_100.json"
    ids = {f"coco:{image['id']}" for image in json.loads(coco.read_text())["images"]}
    assert build(tmp_path, "--coco", coco) == ids and len(ids) == 100
    refs = shared_data / "refer/refcocog_layout/refs(umd).p"
    assert len(build(tmp_path, "--refcoco", refs)) == 26
    assert len(build(tmp_path, "--refcoco", refs, "--splits", "val")) == 13
    pope = shared_data / "pope/coco_pope_random.json"
    assert len(build(tmp_path, "--records", pope)) == 250
    splits = shared_data / "visual_genome/densecap_splits.json"
    found = build(tmp_path, "--visual-genome", splits, "--coco", coco)
    assert len({key for key in found if key.startswith("vg:")}) == 5000 and ids <= found
    photos = build(tmp_path, "--folder", shared_data / "ferret_bench/images")
    assert len(photos) == 20 and all(key.startswith("coco:") for key in photos)


def test_what_was_listed_is_never_trained_on(convert, shared_data: Path, tmp_path: Path) -> None:
    """The whole way: a list of RefCOCO's val and test, then RefCOCO's and COCO's recipes with it."""
    folder = shared_data / "refer/refcocog_layout"
    build(tmp_path, "--refcoco", folder / "refs(umd).p")
    guard = ("--exclude-images", tmp_path / "lists" / "eval.txt")
    out = convert("refcoco", "--folder", folder, "--refs", "umd", "--images", "x", "--split", "all", *guard)
    assert out.report["dropped"].get("in --exclude-images") == 26 and out.report["records_kept"] == 14
    instances = convert("coco", "--annotations", folder / "instances.json", "--images", "x", *guard)
    assert {s.image.name for s in instances.samples} == {s.image.name for s in out.samples}


def test_visual_genome_by_its_coco_names(tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(json.dumps({"test": [1, 2], "train": [3]}))
    pictures = [
        {"image_id": n, "coco_id": coco, "url": f"x/VG_100K/{n}.jpg", "width": 9, "height": 9}
        for n, coco in ((1, None), (2, 77), (3, 78))
    ]
    (tmp_path / "image_data.json").write_text(json.dumps(pictures))
    arguments = ("--visual-genome", tmp_path / "splits.json")
    assert "coco:77" not in build(tmp_path, *arguments)
    found = build(tmp_path, *arguments, "--image-data", tmp_path / "image_data.json")
    assert found == {"vg:1", "file:1.jpg", "vg:2", "file:2.jpg", "coco:77"}


@pytest.mark.parametrize("kind", ["--coco", "--refcoco", "--records", "--folder", "--visual-genome"])
def test_an_evaluation_set_that_names_nothing_is_refused(tmp_path: Path, capsys, kind: str) -> None:
    (tmp_path / "x.json").write_text('{"images": [], "a": 1}')
    source = tmp_path / "x.json" if kind != "--folder" else tmp_path
    assert eval_pictures.main([kind, str(source), "--out", str(tmp_path / "list.txt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "list.txt").exists()


def test_nothing_asked_is_refused(tmp_path: Path, capsys) -> None:
    assert eval_pictures.main(["--out", str(tmp_path / "list.txt")]) == 2
    assert "at least one of --coco" in capsys.readouterr().err
