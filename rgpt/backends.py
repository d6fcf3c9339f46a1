"""Who answers: any OpenAI-compatible endpoint, a local transformers VLM, or a RegionGPT such as `tiny`.

    backend = open_backend("openai:Qwen/Qwen2.5-VL-7B-Instruct@http://localhost:8000/v1")
    backend = open_backend("local:checkpoints/llava-1.5-7b-hf")
    backend = open_backend("rgpt:tiny")
    done = backend.complete([{"role": "user", "content": [image_part(picture), text_part("What is this?")]}])

Messages are the usual `{"role", "content"}`; content is text or a list of parts: `{"type": "text", "text"}`,
`{"type": "image", "image": PIL image}` and, for backends that see regions, `{"type": "region", "region"}`
(the nth such part is `<region n>` of the text, on the one picture of the message).

A backend makes one attempt; `BackendError` says what the caller may do. Libraries are imported when opened.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rgpt.errors import InputError
from rgpt.hub import open_pretrained
from rgpt.refused_parameters import refused_parameters

if TYPE_CHECKING:
    from PIL import Image

    from rgpt.regions import Region

Message = dict[str, Any]

FORMS = "openai:MODEL@URL, openai:MODEL, local:MODEL_DIR or rgpt:tiny"
JPEG_QUALITY = 92
NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")
"""Exceptions of the HTTP library after which the server cannot have seen the request."""


@dataclass(frozen=True)
class Completion:
    """One answer.

    Args:
        finish_reason: `stop`, `length` (cut at `max_tokens`), `content_filter`, or what the endpoint says.
        counted: False when the endpoint told no token counts; both are then 0.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    counted: bool = True


class BackendError(Exception):
    """An attempt that brought no answer.

    Args:
        kind: `rate limit`, `server`, `timeout`, `connection`, `malformed`, `request` (this one is wrong) or
            `account` (no request can succeed: key, model name, address).
        retry_after: seconds the endpoint asked us to wait.
        billed: whether the endpoint may have computed, and charged for, an answer that was lost.
    """

    def __init__(
        self, kind: str, message: str, *, retry_after: float | None = None, billed: bool = False
    ) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.retry_after, self.billed = kind, retry_after, billed

    @property
    def retryable(self) -> bool:
        return self.kind not in ("request", "account")


class Backend(ABC):
    """What `open_backend` gives: one model that can be asked. Both ways of asking make one attempt.

    `name` identifies the model without its address; `sees_regions` says whether region parts are understood;
    `concurrent` whether several requests at a time are of any use.
    """

    name: str
    sees_regions = False
    concurrent = False

    @cached_property
    def changed(self) -> dict[str, str | None]:
        """Parameters that the endpoint refused: the name each is sent under since, None where it is left out.

        Answers without them are other answers, so whoever keeps a record of a run keeps this in it, and gives
        it to the backend of the next run.
        """
        return {}

    def complete(
        self,
        messages: list[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Completion:
        """Ask and wait. Raises BackendError, or InputError for messages that no attempt could send."""
        return self._complete(messages, max_tokens, temperature, seed)

    async def complete_async(
        self,
        messages: list[Message],
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> Completion:
        """Ask from an event loop, always the same one."""
        return await self._complete_async(messages, max_tokens, temperature, seed)

    async def close(self) -> None:
        """Close connections, from the event loop that `complete_async` was awaited in."""
        return None

    @abstractmethod
    def _complete(
        self, messages: list[Message], max_tokens: int, temperature: float, seed: int | None
    ) -> Completion: ...

    async def _complete_async(
        self, messages: list[Message], max_tokens: int, temperature: float, seed: int | None
    ) -> Completion:
        return await asyncio.to_thread(self._complete, messages, max_tokens, temperature, seed)


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def image_part(image: Image.Image) -> dict[str, Any]:
    return {"type": "image", "image": image}


def region_part(region: Region) -> dict[str, Any]:
    return {"type": "region", "region": region}


OPENAI = "https://api.openai.com/v1"
"""OpenAI's own address; the client's variable OPENAI_BASE_URL is not read."""


def parse_backend(spec: str) -> tuple[str, str, str | None]:
    """(kind, model, URL or None) of `openai:MODEL@URL`, `local:MODEL_DIR`, `rgpt:MODEL`. Raises InputError.

    A model's name may hold an @: only what follows the last one and looks like an address is the URL.
    """
    kind, colon, rest = spec.partition(":")
    if not colon or kind not in ("openai", "local", "rgpt") or not rest.strip():
        raise InputError.about("backend", FORMS, repr(spec), "write it in one of these forms")
    if kind != "openai":
        return kind, rest, None
    model, at, url = rest.rpartition("@")
    if not at or not re.match(r"[a-z]+://", url):
        return kind, rest, None
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname or not model:
        raise InputError.about(
            "backend", "openai:MODEL@http://HOST:PORT/v1", repr(spec), "correct the address"
        )
    return kind, model, url


def open_backend(
    spec: str,
    *,
    timeout: float = 120.0,
    api_key_env: str | None = None,
    where: Mapping[str, Any] = MappingProxyType({}),
) -> Backend:
    """The backend that `spec` names.

    Args:
        spec: `openai:MODEL@URL` (any OpenAI-compatible endpoint; without @URL the public OpenAI one),
            `local:MODEL_DIR` (a transformers image-text-to-text model), `rgpt:tiny` or `rgpt:MODEL_DIR`.
        timeout: seconds until a request to an endpoint is given up, all of it counted.
        api_key_env: the environment variable that holds the endpoint's key. OPENAI_API_KEY goes to OpenAI's
            own address without being named, and to no other; local servers need no key.
        where: a model that is opened here runs, and in which numbers (`rgpt.placement`).

    Raises:
        InputError: for another form, a missing folder, no such device, no key for the public endpoint, or
            `where` for an endpoint. No request is made.
    """
    kind, model, url = parse_backend(spec)
    if kind == "openai":
        if where:
            raise InputError.about(
                f"--{next(iter(where))}",
                "a model that is opened here",
                f"the endpoint {model}",
                "leave it out",
            )
        url = url or OPENAI
        own = urlsplit(url).scheme == "https" and urlsplit(url).hostname == urlsplit(OPENAI).hostname
        name = api_key_env or ("OPENAI_API_KEY" if own else None)
        key = os.environ.get(name) if name else None
        if name and not key:
            raise InputError.about(
                f"the variable {name}", "the endpoint's key", "nothing", "export it or give another URL"
            )
        return OpenAIBackend(model, url, key or "none", timeout)
    return LocalBackend(model, **where) if kind == "local" else RegionGPTBackend(model, **where)


# ------------------------------------------------------------------------------------------------ endpoint


class OpenAIBackend(Backend):
    """Chat completions of an OpenAI-compatible endpoint (vLLM, SGLang, hosted ones): the official client."""

    concurrent = True

    def __init__(self, model: str, url: str, key: str, timeout: float) -> None:
        self.name, self.model, self.timeout = f"openai:{model}", model, timeout
        # Retries are the caller's: its budget and journal must see every attempt.
        self._options: dict[str, Any] = {
            "base_url": url,
            "api_key": key,
            "timeout": timeout,
            "max_retries": 0,
        }
        self._client: Any = None
        self._async_client: Any = None
        self._saying = threading.Lock()

    def _complete(
        self, messages: list[Message], max_tokens: int, temperature: float, seed: int | None
    ) -> Completion:
        if self._client is None:
            from openai import OpenAI

            self._client = OpenAI(**self._options)
        sent = [_to_openai(message) for message in messages]
        while True:
            request = self._request(sent, max_tokens, temperature, seed)
            try:
                raw = self._client.chat.completions.with_raw_response.create(**request)
                return _read(raw.http_response.text)
            except Exception as error:
                if not self._adapts(error, request):
                    return _answer_or_raise(error)

    async def _complete_async(
        self, messages: list[Message], max_tokens: int, temperature: float, seed: int | None
    ) -> Completion:
        if self._async_client is None:
            from openai import AsyncOpenAI

            self._async_client = AsyncOpenAI(**self._options)
        sent = await asyncio.to_thread(lambda: [_to_openai(message) for message in messages])
        while True:
            request = self._request(sent, max_tokens, temperature, seed)
            try:
                # The client's own limit is one for each read: an answer that trickles would never end.
                async with asyncio.timeout(self.timeout):
                    raw = await self._async_client.chat.completions.with_raw_response.create(**request)
                    return _read(raw.http_response.text)
            except Exception as error:
                if not self._adapts(error, request):
                    return _answer_or_raise(error)

    async def close(self) -> None:
        if self._async_client is not None:
            await self._async_client.close()
        if self._client is not None:
            self._client.close()

    def _request(
        self, sent: list[Message], max_tokens: int, temperature: float, seed: int | None
    ) -> dict[str, Any]:
        request: dict[str, Any] = {"model": self.model, "messages": sent}
        wanted = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        for name, value in wanted.items():
            if value is not None and (sent_as := self.changed.get(name, name)) is not None:
                request[sent_as] = value
        return request

    def _adapts(self, error: Exception, request: dict[str, Any]) -> bool:
        """Whether the endpoint named parameters it does not take: the request is sent anew without them.

        `max_tokens` first becomes `max_completion_tokens`, which newer OpenAI models know instead; most
        servers know only the former. Every refusal takes a name out of the request, so this ends.
        """
        response = getattr(error, "response", None)
        if response is None:
            return False
        refused = refused_parameters(
            request.keys() - {"model", "messages"}, response.status_code, response.text
        )
        with self._saying:
            for name in refused:
                other = LIMIT_NAMES.get(name)
                name = "max_tokens" if name in LIMIT_NAMES else name
                known = self.changed.get(name, name)
                if known is None or known == other:
                    continue  # another request, sent at the same time, was told the same
                self.changed[name] = other
                change = described_changes({name: other})
                _say(f"{self.name}: {change} from now on, as the endpoint does not take {known}.")
        return bool(refused)


LIMIT_NAMES = {"max_tokens": "max_completion_tokens", "max_completion_tokens": None}
"""What the limit on an answer's tokens is called next, once a name of it was refused."""


def described_changes(changed: Mapping[str, str | None]) -> str:
    """`Backend.changed` in words, e.g. `temperature is left out`."""
    told = (f"{n} is {'left out' if other is None else f'sent as {other}'}" for n, other in changed.items())
    return ", ".join(told)


def _say(sentence: str) -> None:
    from tqdm import tqdm

    tqdm.write(sentence, file=sys.stderr)


def _to_openai(message: Message) -> Message:
    if isinstance(message["content"], str):
        return message
    parts = []
    for part in message["content"]:
        if part["type"] == "image":
            buffer = io.BytesIO()
            part["image"].convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
            url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
            part = {"type": "image_url", "image_url": {"url": url}}
        elif part["type"] == "region":
            raise InputError("This backend does not see regions: crop the picture instead.")
        parts.append(part)
    return {**message, "content": parts}


def _read(body: str) -> Completion:
    """A chat completion from the bytes of a 200: endpoints and proxies send all kinds of things."""
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        content = choice["message"].get("content")
        if isinstance(content, list):  # some servers answer in parts
            content = "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
        if content is not None and not isinstance(content, str):
            raise TypeError(f"content is {type(content).__name__}")
        refusal = choice["message"].get("refusal")
        reason = str(choice.get("finish_reason") or "stop")
        usage = answer.get("usage") or {}
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BackendError("malformed", f"{type(error).__name__} in {body[:80]!r}", billed=True) from error
    text = (content or (refusal if isinstance(refusal, str) else "") or "").strip()
    # Half of a surrogate pair passes json.loads and then cannot be written as UTF-8.
    text = text.encode("utf-8", "replace").decode("utf-8")
    if refusal and not content:
        reason = "content_filter"
    if not (isinstance(prompt, int) and isinstance(completion, int) and prompt >= 0 and completion >= 0):
        return Completion(text, 0, 0, reason, counted=False)
    return Completion(text, prompt, completion, reason)


def _answer_or_raise(error: Exception) -> Completion:
    """What an exception of the client means. A blocked request is an answer of its kind, not an error."""
    import openai

    if isinstance(error, BackendError | InputError):
        raise error
    if isinstance(error, TimeoutError | openai.APIConnectionError):
        cause = type(error.__cause__).__name__
        late = isinstance(error, TimeoutError | openai.APITimeoutError)
        kind, message = ("timeout", "no answer in time") if late else ("connection", f"{cause}, {error}")
        raise BackendError(kind, message, billed=cause not in NEVER_SENT) from error
    if isinstance(error, openai.APIStatusError):
        status, message = error.status_code, " ".join(str(error.message).split())[:300]
        if status == 400 and re.search(r"content.?(filter|policy|management)", f"{error.code} {message}"):
            return Completion("", 0, 0, "content_filter")
        kind = "request"
        if status == 429:
            # OpenAI says 429 also when the money is used up: waiting does not help then.
            kind = "account" if error.code == "insufficient_quota" else "rate limit"
        elif status in (401, 403, 404, 405):
            kind = "account"
        elif status in (408, 409) or status >= 500:
            kind = "server"
        raise BackendError(kind, f"HTTP {status}, {message}", retry_after=_retry_after(error)) from error
    if isinstance(error, openai.APIError):
        raise BackendError("malformed", str(error)[:300], billed=True) from error
    raise error


def _retry_after(error: Any) -> float | None:
    """Seconds named by `retry-after-ms` or `Retry-After` (seconds, or a date)."""
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
                return float(value) * unit
            when = parsedate_to_datetime(value)
            return max(0.0, (when - datetime.now(when.tzinfo)).total_seconds())
        except (ValueError, TypeError):
            pass
    return None


# --------------------------------------------------------------------------------------------------- local


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message["content"]
    return [text_part(content)] if isinstance(content, str) else content


class LocalBackend(Backend):
    """A transformers image-text-to-text model from a folder, with its own chat template."""

    def __init__(self, folder: str, **where: Any) -> None:
        self._lock = threading.Lock()
        if not (Path(folder) / "config.json").is_file():
            raise InputError.about(
                f"model {folder!r}", "a folder with config.json", "none", "download it first"
            )
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from rgpt.model.device import pretrained_options

        options, moved_to = pretrained_options(**where)
        self.name = f"local:{Path(folder).resolve().name}"
        try:
            self.processor = open_pretrained(AutoProcessor, folder, local_files_only=True)
            model = open_pretrained(
                AutoModelForImageTextToText,
                folder,
                local_files_only=True,
                use_safetensors=True,
                **options,
            )
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise InputError(
                f"the model {folder!r} cannot be opened ({reason}): give an image-text-to-text model with "
                "safetensors weights."
            ) from error
        self.model = (model if moved_to is None else model.to(moved_to)).eval()
        if not getattr(self.processor, "chat_template", None):
            raise InputError(f"the model {folder!r} has no chat template: give one that was tuned to chat.")

    def _complete(
        self, messages: list[Message], max_tokens: int, temperature: float, seed: int | None
    ) -> Completion:
        import torch

        listed = [{**message, "content": _parts(message)} for message in messages]
        batch = self.processor.apply_chat_template(
            listed, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device)
        sampling: dict[str, Any] = {"do_sample": temperature > 0}
        if temperature > 0:
            sampling["temperature"] = temperature
        # One at a time: the random state is the process's.
        with self._lock, torch.random.fork_rng(), torch.inference_mode():
            if seed is not None:
                torch.manual_seed(seed)
            ids = self.model.generate(**batch, max_new_tokens=max_tokens, **sampling)[0].tolist()
        prompt = batch["input_ids"].shape[1]
        new = ids[prompt:]
        ends = self.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        reason = "stop" if new and new[-1] in ends else "length"
        text = self.processor.decode(new, skip_special_tokens=True).strip()
        return Completion(text, prompt, len(new), reason)


class RegionGPTBackend(Backend):
    """A RegionGPT: `tiny`, a folder, or a hub id. It sees whole pictures with regions on them."""

    sees_regions = True

    def __init__(self, name_or_path: str, **where: Any) -> None:
        self._lock = threading.Lock()
        from rgpt.model import load

        label = name_or_path if not Path(name_or_path).is_dir() else Path(name_or_path).resolve().name
        self.name = f"rgpt:{label}"
        self.model, self.processor = load(name_or_path, **where)

    def _complete(
        self, messages: list[Message], max_tokens: int, temperature: float, seed: int | None
    ) -> Completion:
        from rgpt.chat import ChatSession

        if len(messages) != 1 or messages[0]["role"] != "user":
            raise InputError("A RegionGPT backend takes one user message a request: send no other roles.")
        parts = _parts(messages[0])
        session = ChatSession(self.model, self.processor)
        for part in parts:
            if part["type"] == "image":
                session.set_image(part["image"])
        for part in parts:
            if part["type"] == "region":
                session.add_region(part["region"])
        question = "\n".join(part["text"] for part in parts if part["type"] == "text")
        with self._lock:
            text = session.ask(question, max_new_tokens=max_tokens, temperature=temperature, seed=seed)
        used: Any = session.turns[-1].usage  # a turn that was just asked has it
        return Completion(text, used.prompt_tokens, used.answer_tokens, used.ended)
