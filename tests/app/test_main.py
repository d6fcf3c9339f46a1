"""`python -m app.main`: arguments, one-line errors, and nothing sent anywhere."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from app.main import build_parser, main
from tests.app.tiny_sam import save_tiny_sam

ROOT = Path(__file__).parents[2]

SERVE_AND_LISTEN = """
import sys
asked = []
def watch(event, details):
    if event == "socket.getaddrinfo":
        asked.append(str(details[0]))
    if event == "socket.connect" and isinstance(details[1], tuple):
        asked.append(str(details[1][0]))
sys.addaudithook(watch)

import app.main                                # what switches Gradio's reports off
from app.engine import ModelEngine
from app.page import build_page, launch_options
import urllib.request

class Silent:
    name, notes = "silent", "Says nothing."
    def open(self, image): raise NotImplementedError

page = build_page(Silent())
_, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
body = urllib.request.urlopen(address).read().decode()
page.close()
print("served" if "Says nothing." in body else "wrong page")
print([name for name in sys.modules if name.startswith("rgpt.recognizers")])
print(sorted(set(asked) - {"127.0.0.1", "localhost", "0.0.0.0", "None"}))
"""


def test_the_server_talks_to_nobody():
    done = subprocess.run(
        [sys.executable, "-c", SERVE_AND_LISTEN], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    # Nor does it import a recognizer that nobody asked for.
    assert done.stdout.splitlines()[-3:] == ["served", "[]", "[]"], done.stdout + done.stderr


def test_defaults_stay_on_this_machine():
    options = build_parser().parse_args([])
    assert (options.host, options.port) == ("127.0.0.1", 7860)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "80.5"])
def test_a_port_is_a_number_from_1_to_65535(port, capsys):
    with pytest.raises(SystemExit) as left:
        build_parser().parse_args([f"--port={port}"])
    assert left.value.code == 2 and "1 to 65535" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["--model", str(tmp_path / "nothing")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("app: ") and error.count("\n") == 1


def test_a_port_in_use_is_one_line(monkeypatch, capsys):
    from app import engine
    from tests.app.watched import WatchedEngine

    monkeypatch.setattr(engine.ModelEngine, "load", lambda name: WatchedEngine())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--model", "tiny", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_folder_is_served_and_stopped_by_ctrl_c(tmp_path):
    from tests.model.tiny_models import make_model, make_processor

    model = make_model()
    model.save_pretrained(tmp_path / "small")
    make_processor(model.config).save_pretrained(tmp_path / "small")
    save_tiny_sam(tmp_path / "sam")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "app.main", "--model", str(tmp_path / "small"), "--port", str(port)]
        + ["--sam", str(tmp_path / "sam")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in line
        body = urllib.request.urlopen(f"http://127.0.0.1:{port}").read().decode()
        assert "Model: small" in body and '"tools":["segment","everything"]' in body
        process.send_signal(2)
        process.wait(20)
    finally:
        process.kill()
