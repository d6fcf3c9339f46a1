"""The house stands: imports go down, every first-party import resolves, every path a script names is tracked.

Read from the source with `ast`, so a lazy import inside a function counts as much as one at the top.
"""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# Longest prefix wins. Half a floor up: the command line, which uses the whole package and is used by nobody.
FLOORS = {
    "rgpt": 0,
    "rgpt.errors": 0,
    "rgpt.fetch": 0,
    "rgpt.files": 0,
    "rgpt.formats": 0,
    "rgpt.hub": 0,
    "rgpt.journal": 0,
    "rgpt.regions": 0,
    "rgpt.prompts": 0,
    "rgpt.model": 1,
    "rgpt.recognizers": 1,
    "rgpt.data": 2,
    "rgpt.chat": 2,
    "rgpt.backends": 2,
    "rgpt.asking": 2,
    "rgpt.train": 3,
    "rgpt.serve": 3,
    "rgpt.annotate": 3,
    "rgpt.cli": 3.5,
    "rgpt.commands": 3.5,
    "scripts": 4,
    "data_recipes": 4,
    "app": 4,
    "eval": 4,
}
ROOMS_THAT_DO_NOT_SEE_EACH_OTHER = (1, 4)
FLOOR_0_MAY_USE = {"numpy", "PIL", "pycocotools", "huggingface_hub", "tqdm", "yaml"}
FIRST_PARTY = {"rgpt", "scripts", "data_recipes", "app", "eval", "tests"}

# Written by a run, so never tracked.
GENERATED = (".venv", ".venv/*", "runs", "runs/*", "build", "build/*")


class Import(NamedTuple):
    """One imported name: `from a.b import c` is module a.b, name c; `import a.b` has no name."""

    path: Path
    line: int
    module: str
    name: str | None

    def __str__(self) -> str:
        source = self.path.read_text(encoding="utf-8").splitlines()[self.line - 1].strip()
        where = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return f"{where}:{self.line}: {source}"


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path, root: Path = ROOT) -> Iterator[Import]:
    """Every import of a file, relative ones made absolute."""
    package = path.parent.relative_to(root).parts
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            for alias in node.names:
                yield Import(path, node.lineno, module, alias.name)


def room_of(module: str) -> str:
    """The longest prefix of a dotted name that has a floor."""
    while module not in FLOORS:
        module, dot, _ = module.rpartition(".")
        assert dot, f"{module} has no floor: give it one in FLOORS"
    return module


def targets(found: Import) -> list[str]:
    """The dotted names an import may reach: in `from rgpt import chat` the name is the room."""
    return [found.module] if found.name is None else [found.module, f"{found.module}.{found.name}"]


def breaks_a_floor(found: Import, importer: str) -> str | None:
    """Why this import is not allowed, or None."""
    top = found.module.partition(".")[0]
    room = room_of(importer)
    if FLOORS[room] == 0 and top not in FLOOR_0_MAY_USE | {"rgpt"} | set(sys.stdlib_module_names):
        return f"floor 0 uses {', '.join(sorted(FLOOR_0_MAY_USE))} and Python's own only, not {top}"
    if top == "tests":
        return "only tests import tests"
    if top not in FIRST_PARTY:
        return None
    other = max((room_of(target) for target in targets(found)), key=lambda name: FLOORS[name])
    if FLOORS[other] > FLOORS[room]:
        return f"{room} (floor {FLOORS[room]}) must not look up to {other} (floor {FLOORS[other]})"
    if FLOORS[room] == FLOORS[other] and room != other and FLOORS[room] in ROOMS_THAT_DO_NOT_SEE_EACH_OTHER:
        return f"{room} and {other} share floor {FLOORS[room]} and must not see each other"
    if other in ("rgpt.cli", "rgpt.commands") and FLOORS[room] != FLOORS[other]:
        return f"{room} uses the library, not its command line"
    return None


def test_imports_go_down() -> None:
    problems = [
        f"{found}\n    {why}"
        for path in python_files("rgpt", "scripts", "data_recipes", "app", "eval")
        for found in imports_of(path)
        if (why := breaks_a_floor(found, module_of(path)))
    ]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("importer", "line", "allowed"),
    [
        ("rgpt/regions/box.py", "from rgpt.errors import InputError", True),
        ("rgpt/regions/box.py", "from ..errors import InputError", True),
        ("rgpt/regions/box.py", "import torch", False),
        ("rgpt/prompts.py", "from rgpt import model", False),
        ("rgpt/prompts.py", "def late():\n    from rgpt.model import load", False),
        ("rgpt/model/projection.py", "import torch", True),
        ("rgpt/model/projection.py", "from ..recognizers import clip", False),
        ("rgpt/chat.py", "from rgpt.model import load", True),
        ("rgpt/chat.py", "from rgpt.cli import main", False),
        ("rgpt/commands/chat.py", "from rgpt.serve import app", True),
        ("app/main.py", "from rgpt.chat import ChatSession", True),
        ("app/main.py", "from scripts import bench", False),
        ("app/main.py", "from rgpt.commands.chat import main", False),
        ("eval/run.py", "from data_recipes.shapes import main", False),
        ("eval/run.py", "from tests.conftest import shared_data", False),
        ("eval/run.py", "from eval.metrics import iou", True),
    ],
)
def test_the_rule_itself(tmp_path: Path, importer: str, line: str, allowed: bool) -> None:
    path = tmp_path / importer
    path.parent.mkdir(parents=True)
    path.write_text(line)
    why = [breaks_a_floor(found, module_of(path, tmp_path)) for found in imports_of(path, tmp_path)]
    assert (why == [None]) is allowed, why


def file_of(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def defines(path: Path, name: str) -> bool:
    """Whether a module has this name at its top level; a lazy module names it in a string."""
    tree = tree_of(path)
    names: set[str] = set()
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue  # what is inside is not at the top level
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        todo.extend(ast.iter_child_nodes(node))
    if name in names:
        return True
    if "__getattr__" in names:
        strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        return any(isinstance(value, str) and name in value.split() for value in strings)
    return False


def resolves(found: Import) -> bool:
    path = file_of(found.module)
    if found.name is None:
        return path is not None
    if file_of(f"{found.module}.{found.name}") is not None:
        return True
    return path is not None and (found.name == "*" or defines(path, found.name))


def test_every_first_party_import_resolves() -> None:
    missing = [
        str(found)
        for path in python_files(*sorted(FIRST_PARTY))
        for found in imports_of(path)
        if found.module.partition(".")[0] in FIRST_PARTY and not resolves(found)
    ]
    assert not missing, "\n" + "\n".join(missing)


@cache
def tracked() -> frozenset[str]:
    """Tracked files and the folders above them, relative to the root."""
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode or not run.stdout:
        pytest.skip("this is not a git checkout, so nothing says which files are tracked")
    files = [Path(name) for name in run.stdout.split("\0") if name]
    return frozenset(str(path) for file in files for path in (file, *file.parents))


PATH = re.compile(r"(?<![\w./-])(?:\./)?((?:rgpt|scripts|data_recipes|app|eval|tests|docs|\.ci)/[\w./*-]*)")
MODULE = re.compile(r"\bpython3? -m ((?:rgpt|scripts|data_recipes|app|eval)(?:\.\w+)*)")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)")


def paths_named_in(text: str) -> set[str]:
    """Repository paths in a text: written out, as the module of `python -m`, or as the target of a link."""
    named = {match.rstrip("./") for match in PATH.findall(text)}
    named |= {match.removeprefix("./").rstrip("/") for match in LINK.findall(text)}
    for module in MODULE.findall(text):
        path = module.replace(".", "/")
        named.add(f"{path}/__main__.py" if (ROOT / path).is_dir() else f"{path}.py")
    return named


def test_paths_are_found_in_text() -> None:
    text = """run: python -m scripts.bench chat --config scripts/runs/tiny.yaml > runs/out.json
    see [the log](docs/decisions.md), ./app/main.py, https://example.org/eval/run.py and eval/*.py."""
    assert paths_named_in(text) == {
        "scripts/bench.py",
        "scripts/runs/tiny.yaml",
        "docs/decisions.md",
        "app/main.py",
        "eval/*.py",
    }


def test_every_named_path_is_tracked() -> None:
    known = tracked()
    missing = [
        f"{name} names {path}"
        for name in sorted(known)
        if fnmatch.fnmatch(name, "scripts/*.sh") or name.endswith(".yaml") or name in ("README.md", ".ci/run")
        for path in sorted(paths_named_in((ROOT / name).read_text(encoding="utf-8")))
        if not any(fnmatch.fnmatch(path, pattern) for pattern in GENERATED)
        and not (fnmatch.filter(known, path) if "*" in path else path in known)
    ]
    assert not missing, "\n" + "\n".join(missing)


@pytest.mark.parametrize(
    "path",
    [
        "scripts/deepspeed/zero2.json",
        "scripts/runs/tiny.yaml",
        "rgpt/model/tiny/model.safetensors",
        "rgpt/data/build/x.py",
    ],
)
def test_git_does_not_ignore_what_belongs_here(path: str) -> None:
    tracked()  # skips outside a git checkout
    run = subprocess.run(
        ["git", "check-ignore", "--no-index", path], cwd=ROOT, capture_output=True, check=False
    )
    assert run.returncode == 1, f"{path} is ignored"
