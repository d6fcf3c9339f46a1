"""Pictures by other machines' spellings; two pictures are never one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from rgpt.errors import InputError
from rgpt.formats.paths import PictureFolder, picture_below, readings

FILES = (
    "train/a.png", "upload/4/b.png", "my photo.png", "é.png", "q.png", "r.JPG", "frame_000001.png",
    "50%25.png", "where?.png", "e.jpg", "e.png",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> PictureFolder:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return PictureFolder(tmp_path)


@pytest.mark.parametrize(
    ("spelling", "file"),
    [
        ("train/a.png", "train/a.png"),
        ("train\\a.png", "train/a.png"),
        (".\\train\\a.png", "train/a.png"),
        ("C:\\data\\images\\train\\a.png", "train/a.png"),
        ("c:q.png", "q.png"),
        ("\\\\server\\share\\q.png", "q.png"),
        ("..\\label-studio\\media\\upload\\4\\b.png", "upload/4/b.png"),
        ("/home/someone/q.png", "q.png"),
        ("/data/upload/1/my%20photo.png", "my photo.png"),
        ("/data/upload/1/%C3%A9.png", "é.png"),
        ("e\u0301.png", "é.png"),  # as macOS writes it
        ("/data/local-files/?d=upload/4/b.png", "upload/4/b.png"),
        ("/data/local-files/?d=upload%5C4%5Cb.png", "upload/4/b.png"),
        ("https://bucket.example/x/q.png?X-Amz-Expires=60&Signature=ab.cd", "q.png"),
        ("s3://bucket/x/q.png", "q.png"),
        ("file:///C:/data/q.png", "q.png"),
        ("q.png#part", "q.png"),
        ("R.jpg", "r.JPG"),
        ("frame_000001", "frame_000001.png"),
        ("frame_000001.PNG", "frame_000001.png"),
        ("0a1b2c3d-q.png", "q.png"),
        ("50%25.png", "50%25.png"),  # names as they are come first
        ("where?.png", "where?.png"),
        (" q.png\n", "q.png"),
        ("nowhere.png", None),
        ("", None),
        ("..", None),
        ("train", None),
        ("\ud800.png", None),
        ("a\0b.png", None),
        ("x" * 5000, None),
    ],
)
def test_a_picture_is_found(folder: PictureFolder, spelling: str, file: str | None) -> None:
    assert folder.find(spelling) == (folder.root / file if file else None)
    assert folder.find(spelling) == (folder.root / file if file else None)  # and again


def test_two_pictures_are_never_one_file(folder: PictureFolder) -> None:
    for first, second in (
        ("left/q.png", "right/q.png"),
        ("train/a.png", "old/a.png"),
        ("C:\\q.png", "x/Q.png"),
    ):
        for pair in ((first, second), (second, first)):
            fresh = PictureFolder(folder.root)
            fresh.find(pair[0])
            if fresh.find(pair[0]) and "a.png" not in first:
                with pytest.raises(InputError, match="a file for each name"):
                    fresh.find(pair[1])
    assert folder.find("left\\q.png") == folder.find("left/q.png")  # one name, spelled in two ways


def test_a_name_for_several_files_is_refused(folder: PictureFolder) -> None:
    with pytest.raises(InputError, match=r"one file like it .* 'e.jpg', 'e.png'; write its whole name"):
        folder.find("e")


def test_a_missing_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder, got nothing at this path"):
        PictureFolder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a folder, got a file"):
        PictureFolder(tmp_path / "file")


def test_where_a_picture_would_lie(folder: PictureFolder) -> None:
    assert folder.expected("C:\\new\\z%20z.png") == folder.root / "new/z%20z.png"
    assert readings("https://h/x/z%20z.png?a=1")[:2] == ["x/z%20z.png", "x/z z.png"]


def test_a_picture_below_a_folder_as_another_machine_wrote_it(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("a b.png", "100%25.png"):
        (tmp_path / "train" / name).write_bytes(b"")
    for spelling in ("train/a b.png", "train\\a b.png", "train/a%20b.png"):
        assert picture_below(tmp_path, spelling) == tmp_path / "train" / "a b.png"
    assert picture_below(tmp_path, "train/100%25.png") == tmp_path / "train" / "100%25.png"
    assert picture_below(tmp_path, "train/none.png") == tmp_path / "train" / "none.png"
