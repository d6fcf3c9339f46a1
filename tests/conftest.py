"""Fixtures that every room uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("untimed")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The third-party test data beside the repository; tests that need it are skipped without it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the third-party test data in ../shared/data beside the repository")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _environment_of_one_test() -> Iterator[None]:
    """What a test, or a library in it, writes into the environment ends with the test."""
    with mock.patch.dict(os.environ):
        yield
