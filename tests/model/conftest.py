"""Fixtures of the model's room: tiny random models, one of each kind a session."""

from __future__ import annotations

import pytest

from rgpt.model import RegionGPTForConditionalGeneration, RegionGPTProcessor
from tests.model.tiny_models import KINDS, make_model, make_processor


@pytest.fixture(scope="session", params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def built(kind: str) -> tuple[RegionGPTForConditionalGeneration, RegionGPTProcessor]:
    model = make_model(kind)
    return model, make_processor(model.config, kind)


@pytest.fixture(scope="session")
def clip_llama() -> tuple[RegionGPTForConditionalGeneration, RegionGPTProcessor]:
    model = make_model()
    return model, make_processor(model.config)
