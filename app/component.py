"""Defining Gradio components without side effects on the source tree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

from gradio import component_meta


@contextlib.contextmanager
def no_stub_file() -> Iterator[None]:
    """Define a component class within this block.

    Gradio's metaclass otherwise writes a `.pyi` file beside the module whenever it is imported.
    """
    if not hasattr(component_meta, "create_or_modify_pyi"):
        yield
        return
    with mock.patch.object(component_meta, "create_or_modify_pyi"):
        yield
