"""`rgpt serve --ui` has the app's own options, and its page the tools that they ask for."""

from __future__ import annotations

import argparse
import re

import pytest
from fastapi.testclient import TestClient

from app import main as app_main
from app.options import add_options
from rgpt.cli import main
from rgpt.commands.serve import build_parser, find_page
from tests.app.tiny_sam import save_tiny_sam
from tests.recognizers.tiny_recognizers import make


@pytest.fixture
def folders(tmp_path):
    from rgpt.recognizers import save_recognizer

    save_tiny_sam(tmp_path / "sam")
    save_recognizer(make("clip-crop"), tmp_path / "clip")
    return tmp_path


def words(parser: argparse.ArgumentParser) -> set[str]:
    return {word for action in parser._actions for word in action.option_strings}


def test_both_commands_have_the_options_of_one_list():
    own = argparse.ArgumentParser(add_help=False)
    add_options(own)
    assert "--sam" in words(own) and "--recognizer" in words(own)
    assert words(own) <= words(app_main.build_parser())
    assert words(own) <= words(build_parser(find_page("app.mount:mount")))
    assert not words(own) & words(build_parser())


def test_the_tools_are_on_the_page(folders, monkeypatch):
    from rgpt.serve import server

    served = []
    monkeypatch.setattr(server, "run", lambda app, *_, **__: served.append(app) or 0)
    arguments = ["--sam", f"{folders}/sam", "--recognizer", f"{folders}/clip", "--vocabulary", "zebra, gnu"]
    assert main(["serve", "--model", "tiny", "--port", "0", "--ui", *arguments]) == 0
    with TestClient(served[0]) as client:
        page = client.get("/ui/").text
    assert re.search(r'"tools":\["segment","everything"\]', page) and '"zebra, gnu"' in page
    assert str(folders) not in page  # where things lie is nobody's business


def test_bad_options_are_one_sentence_before_the_model(folders, monkeypatch, capsys):
    import rgpt.model

    monkeypatch.setattr(rgpt.model, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    for arguments, says in (
        (["--ui", "--vocabulary", "a"], "expected a recognizer"),
        (["--ui", "--sam", f"{folders}/clip"], "SamModel"),
        (["--sam", f"{folders}/sam"], "options of the page need --ui"),
    ):
        assert main(["serve", "--port", "0", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("rgpt serve: ") and error.count("\n") == 1 and says in error
