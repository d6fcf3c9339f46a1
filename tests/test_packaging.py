"""What pyproject.toml promises about the wheel holds for the files and imports that are there."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Import names that differ from the name of the distribution.
DISTRIBUTION = {
    "faster_coco_eval": "faster-coco-eval",
    "prometheus_client": "prometheus-client",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "open_clip": "open_clip_torch",
}
# What `rgpt chat` is made of: these may use the core dependencies only.
CHAT = ("errors.py", "prompts.py", "chat.py", "cli.py", "commands", "regions", "model")


def distribution_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", requirement)[0].lower() for requirement in requirements}


CORE = distribution_names(PROJECT["project"]["dependencies"])
EXTRAS = {
    extra: distribution_names(requirements)
    for extra, requirements in PROJECT["project"]["optional-dependencies"].items()
}


def third_party_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and distribution of every import that is neither ours nor Python's."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            modules = [node.module]
        for module in modules:
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and not (ROOT / top).is_dir():
                yield node.lineno, DISTRIBUTION.get(top, top)


def undeclared(paths: list[Path], declared: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} needs {name}"
        for path in sorted(paths)
        for line, name in third_party_imports(path)
        if name.lower() not in declared
    ]


def test_the_extras_are_those_the_readme_may_name() -> None:
    assert set(EXTRAS) == {"train", "app", "serve", "structured", "eval", "recognize", "quantize", "dev"}


def test_every_requirement_is_bounded_above_except_type_stubs() -> None:
    requirements = PROJECT["project"]["dependencies"] + [
        requirement for extra in PROJECT["project"]["optional-dependencies"].values() for requirement in extra
    ]
    unbounded = [
        requirement for requirement in requirements if "<" not in requirement or ">=" not in requirement
    ]
    assert [requirement for requirement in unbounded if not requirement.startswith("types-")] == []


def test_chat_needs_the_core_only() -> None:
    paths = [ROOT / "rgpt" / name for name in CHAT]
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    files = [file for file in files if file.name != "assemble_openclip.py"]  # lazy, says so
    assert undeclared([file for file in files if file.exists()], CORE) == []


def test_every_third_party_import_is_declared() -> None:
    files = [
        file
        for room in ("rgpt", "scripts", "data_recipes", "app", "eval")
        for file in (ROOT / room).rglob("*.py")
    ]
    assert undeclared(files, CORE.union(*EXTRAS.values())) == []


def test_every_folder_of_the_package_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "rgpt").rglob("*.py")}
    missing = [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").exists()]
    assert missing == [], "without __init__.py a folder is left out of the wheel"


def test_every_data_file_of_the_package_is_in_the_wheel() -> None:
    run = subprocess.run(["git", "ls-files", "rgpt"], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode or not run.stdout:
        pytest.skip("this is not a git checkout, so nothing says which files are tracked")
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["rgpt"]
    data = [name.removeprefix("rgpt/") for name in run.stdout.splitlines() if not name.endswith(".py")]
    left_out = [name for name in data if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    assert left_out == []


def test_the_distribution_is_not_called_as_the_package_index_calls_another() -> None:
    assert PROJECT["project"]["name"] != "rgpt"
    run = subprocess.run(
        ["git", "grep", "-nE", r"pip3? install( -[^ ]+)* ['\"]?rgpt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout  # 1: nothing found; 128 outside of a git checkout
