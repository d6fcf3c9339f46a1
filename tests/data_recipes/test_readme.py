"""Every command in data_recipes/README.md is a real one, and every recipe explains itself."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from data_recipes import concepts, eval_pictures, runner, shapes, validate

README = (Path(__file__).parents[2] / "data_recipes" / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`python -m data_recipes\.([a-z_0-9]+)([^`]*)`", README)
RECIPES = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "data_recipes").glob("*.py")
    if "RECIPE = Recipe(" in path.read_text(encoding="utf-8")
)


def test_the_table_has_every_recipe() -> None:
    assert len(RECIPES) == 12 and set(RECIPES) | {"shapes"} <= {name for name, _ in COMMANDS}


@pytest.mark.parametrize(("name", "rest"), COMMANDS)
def test_commands_are_accepted(name: str, rest: str, capsys) -> None:
    """Parsed by the recipe's own parser, with the options that the table leaves to the reader."""
    words = shlex.split(rest)
    if name in RECIPES:
        runner.build_parser(importlib.import_module(f"data_recipes.{name}").RECIPE).parse_args(
            [*words, "--images", "DIR", "--out", "DIR"]
        )
    elif name == "shapes":
        with pytest.raises(SystemExit) as left:  # it has no parser of its own to ask
            shapes.main([*words, "--out", "DIR", "--help"])
        assert left.value.code == 0
    else:
        parsers = {
            "concepts": concepts.build_parser,
            "eval_pictures": eval_pictures.build_parser,
            "validate": validate.build_parser,
        }
        parsers[name]().parse_args(words)


@pytest.mark.parametrize("name", RECIPES)
def test_help_names_downloads_and_a_command_that_parses(name: str, capsys) -> None:
    recipe = importlib.import_module(f"data_recipes.{name}").RECIPE
    assert recipe.name == name
    parser = runner.build_parser(recipe)
    text = parser.format_help()
    assert "--exclude-images" in text and "--workers" in text
    examples = re.findall(rf"python -m data_recipes\.{name} ((?:.*\\\n)*.*)", recipe.help)
    assert examples
    for example in examples:
        parser.parse_args(shlex.split(example.replace("\\\n", " ")))
