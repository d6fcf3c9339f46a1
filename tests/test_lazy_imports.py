"""The command line starts without the heavy libraries: asked of `sys.modules`, not of a clock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ["torch", "torchvision", "transformers", "gradio", "numpy", "PIL", "pycocotools"]
MAIN = """
from rgpt.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
"""


def loaded_by(program: str, suspects: list[str]) -> list[str]:
    """Which of the suspects a fresh interpreter has imported after running the program."""
    report = f"\nimport sys; print([name for name in {suspects!r} if name in sys.modules], file=sys.stderr)"
    run = subprocess.run(
        [sys.executable, "-c", program + report], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return eval(run.stderr.splitlines()[-1])  # a list of strings that this test itself printed


@pytest.mark.parametrize(
    "program",
    [
        "import rgpt",
        "import rgpt.errors",
        "import rgpt.cli",
        MAIN.format(arguments=["--help"]),
        MAIN.format(arguments=["chat", "--help"]),
        MAIN.format(arguments=["chat", "--temperature", "-1"]),
    ],
    ids=["rgpt", "rgpt.errors", "rgpt.cli", "rgpt --help", "rgpt chat --help", "rgpt chat, refused"],
)
def test_starts_light(program: str) -> None:
    assert loaded_by(program, HEAVY) == []


@pytest.mark.parametrize("room", ["rgpt.regions", "rgpt.prompts"])
def test_floor_0_needs_no_torch(room: str) -> None:
    assert loaded_by(f"import {room}", ["torch", "transformers", "gradio"]) == []


def test_a_missing_picture_is_told_before_torch_is_imported() -> None:
    program = MAIN.format(arguments=["chat", "--image", "nowhere.png", "--ask", "What is this?"])
    assert loaded_by(program, ["torch", "transformers"]) == []
