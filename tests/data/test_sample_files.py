"""Sample files: the same samples as `read_jsonl`, LLaVA's JSON as it is, errors that name file and line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from rgpt.data.sample_files import SampleFile
from rgpt.data.schema import QuestionAnswer, Sample, read_jsonl, write_jsonl
from rgpt.errors import InputError
from rgpt.regions import Box

SAMPLES = [
    Sample("a", None, (), (QuestionAnswer("Wie geht’s?", "Gut, danke — 好"),)),
    Sample("b", Path("p.png"), (Box(1, 2, 3, 4),), (QuestionAnswer("What is <region1>?", "x"),)),
    Sample("c", Path("p.png"), (), (QuestionAnswer("q", "a"), QuestionAnswer("r", "b"))),
]


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "s.jsonl"
    write_jsonl(path, [Sample(s.id, s.image and tmp_path / s.image, s.regions, s.turns) for s in SAMPLES])
    return path


def record(*words: str, **more: Any) -> dict[str, Any]:
    roles = ("human", "gpt")
    talk = [{"from": roles[n % 2], "value": text} for n, text in enumerate(words)]
    return {"id": "1", "conversations": talk, **more}


def test_samples_by_number_are_those_read_in_order(jsonl: Path) -> None:
    file = SampleFile(jsonl)
    assert [file[n] for n in range(len(file))] == list(read_jsonl(jsonl))
    assert file.has_picture.tolist() == [False, True, True]
    assert file.characters.tolist() == [sum(len(q) + len(a) for q, a in s.turns) for s in SAMPLES]
    assert pickle.loads(pickle.dumps(file))[1] == file[1]  # what a worker gets


@pytest.mark.parametrize("text", ["{}\n\n  \n{}", "{}\r\n{}\r\n", "\ufeff{}\n{}"])
def test_blank_lines_and_line_ends(tmp_path: Path, text: str) -> None:
    line = json.dumps(SAMPLES[0].to_json())
    (tmp_path / "s.jsonl").write_text(text.replace("{}", line), encoding="utf-8", newline="")
    assert [s.id for s in map(SampleFile(tmp_path / "s.jsonl").__getitem__, range(2))] == ["a", "a"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("s.jsonl", '{"id": "a", "turns": []}', r"s\.jsonl:1: turns: expected at least one"),
        ("s.jsonl", '\n{"id": "a",', r"s\.jsonl:2: line: expected one JSON object"),
        ("s.jsonl", "", r"expected samples, got an empty file"),
        ("s.jsonl", "\n", r"expected at least one sample"),
        ("s.json", "7", r"s\.json:1: expected a JSON list"),
        ("s.json", '[\n{"id": 1},\n{"id"}]', r"s\.json:3: expected JSON"),
        ("s.json", '[\n{"id": 1}\n{}]', r"s\.json:3: expected a JSON list"),
        ("s.json", '[\n\n{"id": 1}]', r"s\.json:3: record: expected a conversation .* got no conv"),
        ("s.json", "[ ]", r"expected at least one sample"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        SampleFile(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an existing file, got nothing"):
        SampleFile(tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="expected an existing folder"):
        (tmp_path / "s.json").write_text("[]")
        SampleFile(tmp_path / "s.json", images=tmp_path / "no")


def test_llava_files_are_read_as_they_are(shared_data: Path) -> None:
    pretrain = SampleFile(shared_data / "llava" / "blip_laion_cc_sbu_558k.sample.json", images="/tmp")
    assert pretrain[0].turns[0].question == "Render a clear and concise summary of the photo."
    assert pretrain[0].image == Path("/tmp/00453/004539375.jpg")
    instruct = SampleFile(shared_data / "llava" / "llava_instruct.sample.json")
    assert [len(instruct[n].turns) for n in range(2)] == [3, 1]
    assert instruct[0].turns[2].answer.startswith("The bus is driving down the street")


def test_llava_text_only_and_other_scripts(tmp_path: Path) -> None:
    rows = [record("Grüße", "好 的"), record("你 <image>", "ja", image="a.png")]
    (tmp_path / "s.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    file = SampleFile(tmp_path / "s.json")
    assert file[0].turns == (("Grüße", "好 的"),) and file[0].image is None
    assert file[1].turns == (("你", "ja"),) and file[1].image == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (record("<image> hi", "x"), "got <image> without a picture"),
        (record("<image> <image>", "x", image="a"), "got more than one <image>"),
        (record("<image> hi", "x", image=["a", "b"]), "got more than one picture"),
        (record("hi"), "got no question with an answer"),
        (record("hi", "x", image=3), "got a picture that is no path"),
        (record("hi <region1>", "x", image="a"), "got text with a region's mark"),
        (record("hi", "x \ud800"), "expected whole characters"),
    ],
)
def test_llava_records_that_cannot_be_used(tmp_path: Path, value: dict[str, Any], says: str) -> None:
    (tmp_path / "s.json").write_text(json.dumps([value]))
    with pytest.raises(InputError, match=rf"s\.json:1: .*{says}"):
        SampleFile(tmp_path / "s.json")


def test_llavas_records_need_no_id_and_mendings_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [record("hi", "x", id=7), record("hi", "x", "and"), record("hi", "x")]
    del rows[1]["id"], rows[2]["id"]
    for text in (json.dumps(rows), "\n".join(map(json.dumps, rows))):
        (tmp_path / "s.json").write_text(text)
        file = SampleFile(tmp_path / "s.json", progress=True)
        assert [file[n].id for n in range(3)] == ["7", "1", "2"]
        assert "1 times: question without an answer left out" in capsys.readouterr().err
