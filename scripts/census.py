"""How large the house is, and how often it says the same: one table, from the standard library alone.

    python -m scripts.census                 the working tree
    python -m scripts.census --at COMMIT     an earlier state beside it
    python -m scripts.census --path          also run a question and count what it runs through

Counted is every Python file that git tracks outside tests/. Code lines hold a token that is neither a comment
nor part of a docstring (a string that stands alone: of a module, a class, a function or a constant). What a
question runs through is counted from `set_image` to the end of `ask`, with `tiny` on a drawn scene: files of
this project only, lines run while importing left out.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

IDEAS: Mapping[str, str] = {
    "a rename into place": r"os\.(?:replace|rename)\(|\.(?:replace|rename)\(\w*(?:target|path|out)\w*\)",
    "JSONL read line by line": r"json\.loads\(line\b(?!\[)",  # `line[6:]` is an event of a stream
    "a pattern of <regionN>": r"<region\(|<region\\d|<region\[0-9\]|<region\(\?",
    "a digest of a file": r"hashlib\.(?:sha256|blake2b|file_digest)\(",
    "a lock on a folder": r"\bflock\(|\blockf\(",
    "a share of a grid's cell": r"np\.diff\(np\.clip\(|_integrate\(window|(?:np|torch)\.minimum\((?:x2|high)",
    "rows padded by hand": r"(?:np|torch)\.full\(\(len\(\w+\), length\)",
    "a tokenised conversation": r"(?m)^    (?:input_ids: Tensor|ids: list\[int\])$",
}
"""What issues of one idea look like in the source: places are lines that match, outside strings of help."""


@dataclass(frozen=True)
class Count:
    """Of one file: `lines`, `code` lines, `definitions` that could have a docstring, and those that do."""

    lines: int
    code: int
    definitions: int
    documented: int
    switches: int
    raises: int


def count(text: str) -> Count:
    """Raises SyntaxError for what is no Python."""
    tree = ast.parse(text)
    inside: set[int] = set()  # lines of docstrings
    documented = definitions = switches = raises = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            raises += 1
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            switches += node.func.attr == "add_argument" and _is_switch(node)
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            inside.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        if not isinstance(node, DOCUMENTED):
            continue
        public = isinstance(node, ast.Module) or not node.name.startswith("_")
        has = ast.get_docstring(node, clean=False) is not None
        definitions += public
        documented += public and has
    code: set[int] = set()
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank and token.type != tokenize.ENDMARKER:
            code.update(range(token.start[0], token.end[0] + 1))
    return Count(len(text.splitlines()), len(code - inside), definitions, documented, switches, raises)


def _is_switch(call: ast.Call) -> bool:
    """Whether an `add_argument` adds an option rather than a position."""
    return any(isinstance(each, ast.Constant) and str(each.value).startswith("-") for each in call.args)


def sources(commit: str | None = None) -> dict[str, str]:
    """The text of every Python file outside tests/, by its path: tracked ones, or those of a commit."""
    listed = ["ls-tree", "-r", "--name-only", commit] if commit else ["ls-files"]
    names = [name for name in _git(*listed).splitlines() if name.endswith(".py") and name[:6] != "tests/"]
    if commit:
        return {name: _git("show", f"{commit}:{name}") for name in names}
    return {name: (ROOT / name).read_text("utf-8") for name in names if (ROOT / name).is_file()}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"census: git {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout


def census(texts: Mapping[str, str]) -> dict[str, str]:
    """The table's rows: what is counted, and its figure as it is printed."""
    counts = {name: count(text) for name, text in texts.items()}
    longest = max(counts, key=lambda name: counts[name].lines)
    definitions = sum(c.definitions for c in counts.values())
    documented = sum(c.documented for c in counts.values())
    rows = {
        "files": f"{len(counts):,}",
        "lines": f"{sum(c.lines for c in counts.values()):,}",
        "code lines": f"{sum(c.code for c in counts.values()):,}",
        "switches of commands": f"{sum(c.switches for c in counts.values()):,}",
        "longest file": f"{counts[longest].lines:,} {longest}",
        "public things with a docstring": f"{documented / max(definitions, 1):.1%} of {definitions:,}",
        "raises": f"{sum(c.raises for c in counts.values()):,}",
    }
    for idea, pattern in IDEAS.items():
        places = {name: len(re.findall(pattern, text)) for name, text in texts.items()}
        if "scripts/census.py" in places:
            places["scripts/census.py"] = 0
        rows[idea] = f"{sum(places.values())} in {sum(map(bool, places.values()))} files"
    return rows


def question_path() -> dict[str, str]:
    """What a question runs through. Needs the package's own dependencies, unlike the rest."""
    sys.path.insert(0, str(ROOT))
    from rgpt.chat import ChatSession
    from rgpt.data.scenes import draw_scene
    from rgpt.regions import Box

    session, scene = ChatSession.from_pretrained("tiny"), draw_scene(0)
    run: dict[str, set[int]] = {}
    wanted = {str(ROOT / "rgpt"), str(ROOT / "app")}

    def trace(frame, event, _argument):  # type: ignore[no-untyped-def]
        name = frame.f_code.co_filename
        if not any(name.startswith(folder) for folder in wanted):
            return None
        if event == "line" and frame.f_code.co_name != "<module>":
            run.setdefault(name, set()).add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        session.set_image(scene.image)
        session.add_region(Box(4, 4, 40, 40))
        session.ask("What is <region1>?", max_new_tokens=4)
    finally:
        sys.settrace(None)
    files = {name: count(Path(name).read_text("utf-8")).code for name in run}
    return {
        "files a question runs through": f"{len(files)}",
        "code lines of these files": f"{sum(files.values()):,}",
        "lines run of them": f"{sum(map(len, run.values())):,}",
    }


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Rows of all columns, aligned."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = [["", *columns], *([name, *(c.get(name, "") for c in columns.values())] for name in names)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns) + 1)]
    return "\n".join(
        "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.census", description=__doc__.splitlines()[0])
    parser.add_argument("--at", metavar="COMMIT", help="an earlier state beside the working tree")
    parser.add_argument("--path", action="store_true", help="also what a question runs through")
    given = parser.parse_args(arguments)
    columns = {given.at: census(sources(given.at))} if given.at else {}
    columns["now"] = census(sources()) | (question_path() if given.path else {})
    print(table(columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
