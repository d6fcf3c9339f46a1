"""Who answers: forms of the name, an endpoint's every failure told apart, local models, `tiny`."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rgpt.backends import (
    BackendError,
    Completion,
    image_part,
    open_backend,
    parse_backend,
    region_part,
    text_part,
)
from rgpt.data.scenes import draw_scene
from rgpt.errors import InputError
from rgpt.refused_parameters import refused_parameters
from rgpt.regions import Box, Mask
from tests.data_recipes.recap.fake_endpoint import IMAGE_TOKENS, PATIENCE, TIMEOUT, FakeEndpoint
from tests.model.tiny_models import make_picture

ASK = [{"role": "user", "content": [image_part(make_picture()), text_part("What is this?")]}]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("openai:gpt@http://localhost:8000/v1", ("openai", "gpt", "http://localhost:8000/v1")),
        ("openai:Qwen/Qwen2.5-VL@https://x.org", ("openai", "Qwen/Qwen2.5-VL", "https://x.org")),
        ("openai:model@2024", ("openai", "model@2024", None)),
        ("openai:m@2024@http://x", ("openai", "m@2024", "http://x")),
        ("local:a:b@c", ("local", "a:b@c", None)),
        ("rgpt:tiny", ("rgpt", "tiny", None)),
    ],
)
def test_forms(spec: str, expected: tuple[str, str, str | None]) -> None:
    assert parse_backend(spec) == expected


@pytest.mark.parametrize(
    "spec", ["", "tiny", "openai:", "rgpt: ", "ftp:x", "openai:m@ftp://x", "openai:m@http://"]
)
def test_other_forms_are_refused(spec: str) -> None:
    with pytest.raises(InputError):
        parse_backend(spec)


def test_opening_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for spec, word in (
        ("openai:gpt", "OPENAI_API_KEY"),
        (f"local:{tmp_path}", "config.json"),
        (f"rgpt:{tmp_path}", tmp_path.name),
    ):
        with pytest.raises(InputError, match=word):
            open_backend(spec)


def test_starts_light() -> None:
    program = "import rgpt.backends, sys; print([m for m in ('torch', 'openai', 'PIL') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# ------------------------------------------------------------------------------------------------ endpoint


def ask(
    endpoint: FakeEndpoint, both: str, messages: Any = ASK, model: str = "m", **options: Any
) -> Completion:
    """One attempt, blocking or from an event loop."""
    # A machine under load may be slow to answer: hurried only where a timeout is what is tested.
    patience = TIMEOUT if "timeout" in endpoint.plan else PATIENCE
    backend = open_backend(f"openai:{model}@{endpoint.url}", timeout=patience)

    async def once() -> Completion:
        try:
            return await backend.complete_async(messages, **options)
        finally:
            await backend.close()

    return backend.complete(messages, **options) if both == "blocking" else asyncio.run(once())


@pytest.fixture(params=["blocking", "async"])
def both(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def test_an_answer_and_what_was_sent(both: str) -> None:
    with FakeEndpoint() as endpoint:
        done = ask(endpoint, both, max_tokens=50, temperature=0.5, seed=7)
    assert "A thing with the number" in done.text and done.finish_reason == "stop" and done.counted
    assert done.prompt_tokens == IMAGE_TOKENS + len("What is this?") // 4
    assert done.completion_tokens == len(done.text.split())
    (sent,) = endpoint.requests
    assert (sent["model"], sent["max_tokens"], sent["temperature"], sent["seed"]) == ("m", 50, 0.5, 7)
    picture, text = sent["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == make_picture().size


def test_an_answer_that_is_too_long_says_so(both: str) -> None:
    with FakeEndpoint() as endpoint:
        assert ask(endpoint, both, max_tokens=5).finish_reason == "length"


@pytest.mark.parametrize(
    ("fault", "kind", "billed", "retryable"),
    [
        ("429", "rate limit", False, True),
        ("500", "server", False, True),
        ("timeout", "timeout", True, True),
        ("malformed", "malformed", True, True),
        ("html", "malformed", True, True),
        ("no choices", "malformed", True, True),
        ("disconnect", "connection", True, True),
        ("half", "connection", True, True),
        ("401", "account", False, False),
        ("quota", "account", False, False),
    ],
)
def test_failures(fault: str, kind: str, billed: bool, retryable: bool, both: str) -> None:
    with FakeEndpoint(plan=(fault,)) as endpoint, pytest.raises(BackendError) as caught:
        ask(endpoint, both)
    error = caught.value
    assert (error.kind, error.billed, error.retryable) == (kind, billed, retryable), error
    assert error.retry_after == (0.02 if fault == "429" else None)
    assert len(endpoint.requests) == 1, "a backend makes one attempt"


def test_nobody_listens(both: str) -> None:
    with FakeEndpoint() as endpoint:
        pass
    with pytest.raises(BackendError) as caught:
        ask(endpoint, both)
    assert caught.value.kind == "connection" and not caught.value.billed


def test_blocked_and_refused_requests(both: str) -> None:
    with FakeEndpoint() as endpoint:
        done = ask(endpoint, both, [{"role": "user", "content": "a blocked thing"}])
        assert (done.text, done.finish_reason) == ("", "content_filter")
        with pytest.raises(BackendError) as caught:
            ask(endpoint, both, [{"role": "user", "content": "a bad thing"}])
    assert caught.value.kind == "request" and not caught.value.retryable


def test_the_other_name_of_the_limit(both: str) -> None:
    with FakeEndpoint() as endpoint:
        assert ask(endpoint, both, model="new-model", max_tokens=40).text
    first, second = endpoint.requests
    assert "max_tokens" in first and second["max_completion_tokens"] == 40 and "max_tokens" not in second


def unknown(name: str, taken: Any = None) -> Callable[[dict[str, Any]], Any]:
    """An endpoint that does not know a parameter, or only one value of it."""

    def refuse(request: dict[str, Any]) -> dict[str, Any] | None:
        if request.get(name, taken) == taken:
            return None
        return {"error": {"message": f"{name} is not supported with this model", "param": name, "code": None}}

    return refuse


def test_what_an_endpoint_does_not_take_is_left_out_once(
    both: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refusals = [unknown("max_tokens"), unknown("max_completion_tokens"), unknown("temperature", 1)]
    refusals += [unknown("seed")]
    with FakeEndpoint(
        refuse=lambda request: next((told for r in refusals if (told := r(request))), None)
    ) as endpoint:
        backend = open_backend(f"openai:m@{endpoint.url}")

        async def several() -> list[Completion]:
            try:
                asked = (backend.complete_async(ASK, max_tokens=40, seed=1) for _ in range(3))
                return await asyncio.gather(*asked)
            finally:
                await backend.close()

        if both == "blocking":
            done = [backend.complete(ASK, max_tokens=40, seed=1) for _ in range(3)]
            assert len(endpoint.requests) == 3 + 4
        else:
            done = asyncio.run(several())
        last = endpoint.requests[-1]
    assert all(each.text for each in done) and set(last) == {"model", "messages"}
    assert backend.changed == {"max_tokens": None, "temperature": None, "seed": None}
    said = capsys.readouterr().err
    for sentence in ("max_tokens is sent as max_completion_tokens", "temperature is left out"):
        assert said.count(sentence) == 1
    assert said.count("\n") == 4


SENT = ["max_tokens", "temperature", "seed", "top_p", "response_format"]
OPENAI = (
    "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is "
)
LIMIT = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
TOO_LARGE = "max_tokens is too large: 4000. This model supports at most 300 completion tokens"


@pytest.mark.parametrize(
    ("status", "body", "names"),
    [
        (400, {"error": {"message": OPENAI, "param": "temperature", "code": "x"}}, "temperature"),
        (400, {"error": {"message": LIMIT, "param": "max_tokens"}}, "max_tokens"),
        (400, {"error": {"message": "use max_completion_tokens instead"}}, "max_tokens"),
        (400, {"error": {"message": "Unrecognized request argument supplied: seed", "param": None}}, "seed"),
        (400, {"error": {"message": "bad value", "param": "top_p"}}, "top_p"),
        (400, {"error": {"message": "property 'seed' is unsupported"}}, "seed"),
        (
            400,
            {
                "object": "error",
                "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), "
                "'msg': 'Extra inputs are not permitted', 'input': 0}]",
                "param": None,
                "code": 400,
            },
            "seed",
        ),
        (
            422,
            {
                "detail": [
                    {"type": "extra_forbidden", "loc": ["body", n], "msg": "Extra inputs are not permitted"}
                    for n in ("seed", "top_p")
                ]
            },
            "seed top_p",
        ),
        (400, [{"error": {"message": 'Unknown name "responseFormat": Cannot find.'}}], "response_format"),
        (400, {"message": "o-series models don't support temperature=0.0, only 1"}, "temperature"),
        (400, {"message": "Malformed input request: #: extraneous key [seed] is not permitted"}, "seed"),
        (400, {"error": {"message": "`temperature` is deprecated for this model."}}, "temperature"),
        (422, {"error": "Input validation error: `temperature` must be strictly positive"}, "temperature"),
        (500, {"detail": "create() got an unexpected keyword argument 'seed'"}, "seed"),
        (400, "seed is not supported", "seed"),
        # Not about a parameter, or a fault of this request alone.
        (400, {"error": {"message": TOO_LARGE, "param": "max_tokens"}}, ""),
        (400, {"error": {"message": f"'max_tokens' or 'max_completion_tokens' {TOO_LARGE[10:]}"}}, ""),
        (400, {"error": {"message": "unsupported picture; temperature", "param": "messages[0].content"}}, ""),
        (400, {"error": {"message": "The model gpt-seed does not exist", "param": "model"}}, ""),
        (422, {"detail": [{"loc": ["body", "x"], "msg": "unknown", "input": {"seed": 1, "top_p": 1}}]}, ""),
        (400, {"error": {"message": "That is not allowed: proceed with care."}}, ""),
        (401, {"error": {"message": "temperature is not supported", "param": "temperature"}}, ""),
        (429, {"error": {"message": "seed is not allowed now"}}, ""),
    ],
)  # fmt: skip
def test_what_a_refusal_is_about(status: int, body: Any, names: str) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    assert refused_parameters(SENT, status, text) == names.split()


def test_a_region_is_not_sent_to_an_endpoint(both: str) -> None:
    parts = [image_part(make_picture()), region_part(Box(0, 0, 5, 5)), text_part("What is <region1>?")]
    with FakeEndpoint() as endpoint, pytest.raises(InputError, match="crop"):
        ask(endpoint, both, [{"role": "user", "content": parts}])
    assert not endpoint.requests


# ---------------------------------------------------------------------------------------------------- local


def test_tiny_sees_the_region_and_not_only_the_picture() -> None:
    backend = open_backend("rgpt:tiny")
    assert backend.name == "rgpt:tiny" and backend.sees_regions and not backend.concurrent
    right = asked = 0
    for seed in range(3_100_000_000, 3_100_000_004):
        scene = draw_scene(seed)
        for drawn in scene.objects:
            content = [
                image_part(scene.image),
                region_part(Mask(drawn.mask)),
                text_part("What is <region1>? Answer the question using shape category names."),
            ]
            done = backend.complete([{"role": "user", "content": content}], max_tokens=20)
            assert done.prompt_tokens > 36 and done.completion_tokens >= 1 and done.finish_reason == "stop"
            right, asked = right + (done.text == drawn.scene_object.shape), asked + 1
    assert right / asked > 0.8, f"{right} of {asked}"


def test_tiny_without_a_picture_and_with_other_roles() -> None:
    backend = open_backend("rgpt:tiny")
    assert isinstance(backend.complete([{"role": "user", "content": "What is it?"}], max_tokens=3).text, str)
    with pytest.raises(InputError, match="one user message"):
        backend.complete([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}])


def save_llava(folder: Path) -> None:
    """A random LLaVA of 28 pixel pictures, a token a character."""
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from tests.model.tiny_models import LM, VIT, make_tokenizer

    tokenizer = make_tokenizer()
    image = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VIT), text_config=LlamaConfig(**LM), image_token_index=image
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    template = (
        "{% for m in messages %}{{ m.role }}: {% for c in m.content %}"
        "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{{ '\\n' }}"
        "{% endfor %}assistant: "
    )
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def test_a_local_vlm_from_a_folder(tmp_path: Path) -> None:
    save_llava(tmp_path)
    backend = open_backend(f"local:{tmp_path}")
    assert not backend.sees_regions and not backend.concurrent
    first = backend.complete(ASK, max_tokens=8)
    # 16 patches, and "user: What is this?\nassistant: " a character each
    assert first.prompt_tokens == 16 + len("user: What is this?\nassistant: ")
    assert (first.completion_tokens, first.finish_reason) == (8, "length")
    assert (
        backend.complete(ASK, max_tokens=8) == first == asyncio.run(backend.complete_async(ASK, max_tokens=8))
    )
    drawn = [backend.complete(ASK, max_tokens=8, temperature=2.0, seed=seed).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert (
        backend.complete([{"role": "user", "content": "Rephrase this."}], max_tokens=4).completion_tokens == 4
    )
