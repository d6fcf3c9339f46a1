"""Texts of strangers in files that we write, and files of strangers that claim more than they are."""

from __future__ import annotations

import csv
import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from rgpt.backends import open_backend
from rgpt.errors import InputError
from rgpt.formats.json_stream import open_data, read_array
from rgpt.formats.outward import csv_cell, markdown_code, markdown_text
from rgpt.formats.plain_pickle import read_plain_pickle


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|'/c calc'!A1", "'=cmd|'/c calc'!A1"),
        ("+1", "'+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "  '=1"),
        ("\t=1", "\t'=1"),
        ("\r\n=1", "\r\n'=1"),
        ("\uff1d1", "'\uff1d1"),
        ("a;=1", "a;'=1"),  # where semicolons separate
        ("a\n=1", "a\n'=1"),
        ("a = b, c - d", "a = b, c - d"),
        ("", ""),
        ("traffic light", "traffic light"),
    ],
)
def test_no_cell_is_a_formula(text: str, cell: str) -> None:
    assert csv_cell(text) == cell


def test_the_tables_csv_has_no_formula() -> None:
    pytest.importorskip("gradio")
    from PIL import Image

    from app.saved import to_csv
    from app.session import Conversation, Label, Picture, Table
    from rgpt.regions import Box

    picture = Picture(Image.new("RGB", (40, 30)))
    box = Box(1, 2, 30, 20)
    picture.masks["m"], picture.labels["m"] = box, Label("=1+1", 0.5)
    table = Table("@question <region>", {1: box}, {1: "-answer"}, "done", {1: "+likeliest"})
    (row,) = csv.DictReader(io.StringIO(to_csv(Conversation(picture, (), table))))
    assert [row[name] for name in ("name", "question", "answer", "likeliest")] == [
        "'=1+1", "'@question <region1>", "'-answer", "'+likeliest",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("![i](http://evil.example)", r"\!\[i\](http&#58;//evil.example)"),
        ("a | b\nc", r"a \| b c"),
        ("*a* _b_ snake_case `c`", r"\*a\* \_b\_ snake_case \`c\`"),
        ("&lt;b&gt; $$x$$", r"&amp;lt;b&amp;gt; \$\$x\$\$"),
        ("www.evil.example", "www&#46;evil.example"),
        ("# title", r"\# title"),
    ],
)
def test_markdown_shows_a_name_as_it_is(text: str, shown: str) -> None:
    assert markdown_text(text) == shown


def test_code_in_markdown_cannot_be_left() -> None:
    assert markdown_code("a`<b>``c|\nd") == "``` a`<b>``c¦ d ```" and markdown_code("plain") == "`plain`"


def test_a_report_and_a_card_hold_no_markup_of_a_class_or_model() -> None:
    from eval.report import markdown

    evil = "<img src=x>|`"
    run = {
        "task": "t",
        "model": evil,
        "revision": evil,
        "protocol": "p",
        "args": {"a": evil},
        "command": evil,
    }
    scores = {"n": 1, "failed": 1, "per_class": {evil: {"n": 1}}, "confusions": [[evil, evil, 1]]}
    rows = [{"id": evil, "failed": evil, "seconds": 1.0}]
    outside = markdown(run, scores, rows, []).replace("``", "\0").split("\0")[::2]  # not in code
    assert not [part for part in outside if "<img" in part]


def test_a_pickles_indices_and_lengths_are_only_claims(tmp_path: Path) -> None:
    file = tmp_path / "refs.p"
    value = [{"a": ("x", 1), "b": ["é", 2.5]}, None]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps(value, protocol=protocol))
        assert read_plain_pickle(file) == value
    far = b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b"."  # a memo of 2**32 entries
    file.write_bytes(far)
    assert read_plain_pickle(file) == []
    key = b"\x80\x02)" + b"2\x86" * 60  # ((((), ()), …): two to the sixtieth
    for content in (
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",  # bytes
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",  # text
        b"\x80\x05\x96" + struct.pack("<Q", 2**38) + b"x.",  # a bytearray
        b"\x80\x04\x95" + struct.pack("<Q", 2**50) + b"x.",  # a frame
        b"\x80\x02}" + key[2:] + b"K\x01s.",
        b"\x80\x02}(" + key[2:] + b"K\x01u.",
        b"\x80\x02(" + key[2:] + b"K\x01d.",
        b"\x80\x04\x8f(" + key[2:] + b"\x90.",  # a set
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match="lists, dicts, strings and numbers only"):
            read_plain_pickle(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError, match="no regular file"):
        read_plain_pickle(file)


@pytest.mark.parametrize("suffix", [".gz", ".zip"])
def test_a_compressed_file_expands_so_far(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rgpt.formats.json_stream.FREE", 1 << 20)

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / f"{name}.json{suffix}"
        if suffix == ".gz":
            path.write_bytes(gzip.compress(content))
        else:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("a.json", content)
        return path

    bomb = write("bomb", b'["' + b"0" * (1 << 23) + b'"]')
    with pytest.raises(InputError, match="expand at most 200 times"), open_data(bomb) as stream:
        while stream.read(1 << 16):
            pass
    with pytest.raises(InputError, match="expand at most 200 times"):
        list(read_array(bomb))
    with open_data(write("small", b"0" * (1 << 19))) as stream:  # within what any file may
        assert len(stream.read()) == 1 << 19


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "precious")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.example/v1")

    def sent(spec: str, **options: str) -> tuple[str, str]:
        backend: object = open_backend(spec, **options)
        found = vars(backend)["_options"]
        return found["base_url"], found["api_key"]

    own = "https://api.openai.com/v1"
    assert sent("openai:m") == (own, "precious") == sent(f"openai:m@{own}")
    for url in (
        "http://127.0.0.1:8000/v1",
        "https://api.openai.com.evil.example/v1",
        "http://api.openai.com/v1",
    ):
        assert sent(f"openai:m@{url}") == (url, "none")
    monkeypatch.setenv("OTHER", "named")
    assert sent("openai:m@https://x.example/v1", api_key_env="OTHER") == ("https://x.example/v1", "named")
    monkeypatch.delenv("OTHER")
    with pytest.raises(InputError, match="OTHER"):
        open_backend("openai:m@https://x.example/v1", api_key_env="OTHER")
