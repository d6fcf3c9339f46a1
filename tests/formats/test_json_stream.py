"""Streamed JSON is what `json.loads` reads, whatever the window cuts; broken files are named."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgpt.errors import InputError
from rgpt.formats import json_stream
from rgpt.formats.json_stream import open_data, read_array, read_members, read_records

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(values=st.lists(VALUES, max_size=8), window=st.integers(1, 40), indent=st.sampled_from([None, 1]))
def test_an_array_is_what_json_reads(
    tmp_path_factory: pytest.TempPathFactory, values: list, window: int, indent: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "array.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False), encoding="utf-8", errors="replace")
    expected = json.loads(path.read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "WINDOW", window)
        assert list(read_array(path)) == expected == list(read_records(path))


@pytest.mark.parametrize("window", [1, 2, 3, 7, 1 << 20])
def test_members_come_with_their_text_and_others_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", window)
    content = {
        "info": {"images": [1]}, "licenses": [{"id": 9}], "images": [{"id": 1}, {"id": 22}],
        "version": 1234, "annotations": [], "categories": [{"name": "Käse \\u00e9"}],
    }  # fmt: skip
    path = tmp_path / "layout.json"
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
    found = list(read_members(path, ("images", "annotations", "categories")))
    assert [(key, value) for key, value, _ in found] == [
        ("images", {"id": 1}), ("images", {"id": 22}), ("categories", {"name": "Käse \\u00e9"}),
    ]  # fmt: skip
    assert all(json.loads(text) == value for _, value, text in found)


def test_a_string_longer_than_the_window_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", 100)
    values = [{"picture": "A" * 5000 + "\\u00e9"}, 1]
    (tmp_path / "long.json").write_text(json.dumps(values))
    assert list(read_array(tmp_path / "long.json")) == values


def test_lines_and_arrays_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "lines.json").write_text('{"a": 1}\n{"a": 2}\n\n')
    (tmp_path / "array.json").write_text(' [{"a": 1}, {"a": 2}]\n')
    assert list(read_records(tmp_path / "lines.json")) == list(read_records(tmp_path / "array.json"))


def test_compressed_files_are_read_as_they_are(tmp_path: Path) -> None:
    values = [{"n": n} for n in range(2000)]
    plain = json.dumps(values)
    (tmp_path / "a.json").write_text(plain)
    with gzip.open(tmp_path / "a.json.gz", "wt") as stream:
        stream.write(plain)
    with zipfile.ZipFile(tmp_path / "a.json.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", plain)
        archive.writestr("__MACOSX/._a.json", "x")
    for ending in ("", ".gz", ".zip"):
        assert list(read_array(tmp_path / f"a.json{ending}")) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its end instead of a list at the top"),
        ('{"a": 1}', "'{' instead of a list"),
        ('[{"a": 1}, {"a"', "expecting"),
        ('[{"a": 1}', "a comma or the end of the list"),
        ('[{"a": 1} {"a": 2}]', "a comma or the end of the list"),
        ("[1, 2] [3]", "after the end of the data"),
        ("[1, tru, 2]", "expecting value"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_broken_files_are_refused_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        list(read_array(path))
    assert message in str(caught.value) and "broken.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_at_the_start_of_a_large_file_is_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the check on where the error lies, the rest would be read to see whether it helps."""
    monkeypatch.setattr(json_stream, "WINDOW", 1000)
    path = tmp_path / "large.json"
    path.write_text("[{oops}, " + "1, " * 1_000_000 + "1]")
    with open_data(path) as stream:
        scanner = json_stream._Scanner(stream, path)
        scanner.expect("[", "a list")
        with pytest.raises(InputError):
            scanner.value()
        assert len(scanner._text) < 10_000


def test_missing_and_odd_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing at this path"):
        read_array(tmp_path / "none.json")
    with pytest.raises(InputError, match="a folder"):
        read_records(tmp_path)
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a", "[]")
        archive.writestr("b", "[]")
    with pytest.raises(InputError, match="one file in it, got 2"):
        list(read_array(tmp_path / "two.zip"))
    (tmp_path / "bytes.json").write_bytes(b'["\xff"]')
    with pytest.raises(InputError, match="cannot be read"):
        list(read_array(tmp_path / "bytes.json"))
    (tmp_path / "layout.json").write_text('{"images": [], "annotations": {}}')
    with pytest.raises(InputError, match="none under annotations"):
        list(read_members(tmp_path / "layout.json", ("images", "annotations")))
