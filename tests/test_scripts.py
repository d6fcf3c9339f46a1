"""The shell scripts: they parse, and setup.sh does its work once, with a ten-line Python in place of pip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]

# Answers the questions setup.sh asks an interpreter, makes a "virtual environment" that is a copy of itself,
# and writes down every `pip install`.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
    *version_info*) echo "${FAKE_VERSION:-3 11}" ;;
    *ensurepip*) exit "${FAKE_NO_VENV:-0}" ;;
    "-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-m pip") [ "$3" = --version ] || { echo "${@: -1}" >>"$FAKE_LOG"; exit "${FAKE_PIP_FAILS:-0}"; } ;;
    *) exit 9 ;;
esac
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script: Path) -> None:
    run = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


class Checkout:
    """A folder with setup.sh, pyproject.toml and the fake Python."""

    def __init__(self, folder: Path) -> None:
        (folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
        shutil.copy(ROOT / "pyproject.toml", folder)
        self.folder = folder
        self.python = folder / "fake-python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)
        self.log = folder / "pip.log"

    def setup(self, *extras: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {key: value for key, value in os.environ.items() if key not in ("RGPT_VENV", "PYTHON")}
        return subprocess.run(
            ["bash", str(self.folder / "scripts" / "setup.sh"), *extras],
            env=clean | {"PYTHON": str(self.python), "FAKE_LOG": str(self.log)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def installs(self) -> list[str]:
        """What pip was asked to install so far, without the folder's name."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.removeprefix(str(self.folder)) for line in lines]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a folder")


def test_setup_installs_once(checkout: Checkout) -> None:
    first, second = checkout.setup("dev", "app"), checkout.setup("app", "dev")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert checkout.installs() == ["[app,dev]"]
    assert second.stdout == ""
    assert (checkout.folder / ".venv" / "bin" / "python").exists()


def test_setup_check_says_whether_there_is_something_to_do_and_does_nothing(checkout: Checkout) -> None:
    assert checkout.setup("--check", "app").returncode == 1
    assert not checkout.log.exists()
    checkout.setup("app")
    assert checkout.setup("--check", "app").returncode == 0
    assert checkout.setup("--check", "app", "dev").returncode == 1
    assert len(checkout.installs()) == 1


def test_setup_takes_the_lock_when_told_to(checkout: Checkout) -> None:
    assert "no " in checkout.setup(RGPT_LOCKED="1").stderr and not checkout.log.exists()
    shutil.copy(ROOT / "requirements.lock", checkout.folder)
    assert checkout.setup("app").returncode == 0
    assert checkout.setup("app", RGPT_LOCKED="1").returncode == 0
    assert checkout.setup("app", RGPT_LOCKED="1").stdout == ""
    assert checkout.installs() == ["[app]", "/requirements.lock", "[app]"]


def test_the_lock_is_of_what_pyproject_asks_for() -> None:
    from packaging.requirements import Requirement

    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text and "--hash=sha256:" in text
    locked = {
        name.lower().replace("_", "-"): version
        for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    asked += [one for extra in project["project"]["optional-dependencies"].values() for one in extra]
    for requirement in map(Requirement, asked):
        name = requirement.name.lower().replace("_", "-")
        assert requirement.specifier.contains(locked[name]), requirement
    pins = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(pins) == len(locked) and all("--hash=sha256:" in pin for pin in pins)


def test_test_sh_installs_nothing_as_root_unasked(tmp_path: Path) -> None:
    """Run up to its checks, where there is neither Chromium nor set-up to do."""
    folder = tmp_path / "repository"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "test.sh", folder / "scripts")
    (folder / "scripts" / "setup.sh").write_text("")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, does in (
        ("apt-get", 'echo apt-get "$@" >>"$FAKE_LOG"'),
        ("sudo", 'shift; "$@"'),
        ("python", ""),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    for name in ("bash", "dirname", "id", "env", "sh"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(programs)
    log = tmp_path / "log"
    for asked in ({}, {"RGPT_APT": "1"}):
        environment = {"PATH": str(programs), "FAKE_LOG": str(log), **asked}
        run = subprocess.run(
            ["bash", str(folder / "scripts" / "test.sh")], env=environment, capture_output=True, text=True
        )
        assert "apt-get install -y --no-install-recommends chromium" in run.stdout, run.stderr
        assert log.exists() == bool(asked)


def test_setup_without_extras_installs_the_core(checkout: Checkout) -> None:
    assert checkout.setup().returncode == 0
    assert checkout.setup().returncode == 0
    assert checkout.installs() == [""]


def test_setup_adds_what_is_missing_and_drops_nothing(checkout: Checkout) -> None:
    checkout.setup("dev", "app")
    checkout.setup("app")
    checkout.setup("train")
    checkout.setup("dev")
    assert checkout.installs() == ["[app,dev]", "[app,dev,train]"]


def test_setup_installs_again_when_pyproject_changes(checkout: Checkout) -> None:
    checkout.setup("app")
    with (checkout.folder / "pyproject.toml").open("a") as file:
        file.write("# another line\n")
    checkout.setup("dev")
    assert checkout.installs() == ["[app]", "[app,dev]"]


def test_a_failed_install_is_not_remembered(checkout: Checkout) -> None:
    failed = checkout.setup("app", FAKE_PIP_FAILS="1")
    assert failed.returncode == 1
    assert "pip could not install" in failed.stderr
    assert checkout.setup("app").returncode == 0
    assert checkout.installs() == ["[app]", "[app]"]


def test_setup_honours_rgpt_venv(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.setup(RGPT_VENV=str(tmp_path / "elsewhere")).returncode == 0
    assert (tmp_path / "elsewhere" / "bin" / "python").exists()
    assert not (checkout.folder / ".venv").exists()


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"FAKE_VERSION": "3 10"}, "needs Python 3.11 or newer, but"),
        ({"FAKE_VERSION": "2 12"}, "is 2.12"),
        ({"FAKE_NO_VENV": "1"}, "lacks the venv module"),
        ({"PYTHON": "no-such-python"}, "cannot be run"),
    ],
)
def test_setup_says_what_is_wrong_with_python(
    checkout: Checkout, environment: dict[str, str], says: str
) -> None:
    run = checkout.setup(**environment)
    assert run.returncode == 1
    assert says in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (checkout.folder / ".venv").exists()


@pytest.mark.parametrize("version", ["3 11", "3 14", "4 0"])
def test_setup_takes_newer_pythons(checkout: Checkout, version: str) -> None:
    assert checkout.setup(FAKE_VERSION=version).returncode == 0


def test_setup_refuses_an_unknown_extra(checkout: Checkout) -> None:
    run = checkout.setup("dve")
    assert run.returncode == 1
    assert "no extra 'dve'" in run.stderr
    assert "train app serve eval recognize structured quantize dev" in run.stderr
    assert checkout.installs() == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port"], "--port needs a value"),
        (["--sam=a", "--recognizer"], "--recognizer needs a value"),
        (["--port", "x"], "from 1 to 65535, not 'x'"),
        (["--port", "70000"], "from 1 to 65535"),
        (["--prot", "1"], "unknown argument '--prot'"),
    ],
)
def test_demo_refuses_bad_arguments_before_installing(arguments: list[str], says: str) -> None:
    run = subprocess.run(
        ["bash", str(ROOT / "scripts" / "demo.sh"), *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert says in run.stderr
    assert run.stdout == ""
