"""YAML with plain values only, in which no key stands twice: the second would silently replace the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rgpt.errors import InputError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if key.tag != "tag:yaml.org,2002:merge" and repr(name) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} twice", key.start_mark)
            seen.add(repr(name))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path | str) -> Any:
    """The value of a YAML file. Raises InputError when it cannot be read, is none or repeats a key."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError.about(f"run {str(path)!r}", "an existing YAML file", said, "check it") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises InputError, naming `where`, when it is none or repeats a key."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError.about(where, "YAML, each key once", said, "repair it") from error
