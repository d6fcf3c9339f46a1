"""An OpenAI-compatible endpoint that answers nonsense, fails in every way, and keeps the books."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

IMAGE_TOKENS = 300
TIMEOUT, PATIENCE = 0.4, 60.0
"""Seconds a client waits: where it is to meet a timeout, and where it is not."""
FAULTS = ("429", "500", "timeout", "malformed", "html", "no choices", "slow", "disconnect", "half")
COMPUTED = ("timeout", "malformed", "html", "no choices", "slow", "disconnect", "half")
"""Faults after which the endpoint charges all the same."""


class FakeEndpoint:
    """Listens on 127.0.0.1 while used as a context manager.

    Args:
        faults: fault → share of requests.
        plan: faults of the first requests, in order ("" for none); after them `faults` decides.
        on_request: called with (kind of question, its text) before anything is answered.
        refuse: called with a request; the body of a 400, or None where it is fine.
        reply: the answer to (question, request); default: a caption.
    """

    def __init__(
        self,
        faults: dict[str, float] | None = None,
        plan: tuple[str, ...] = (),
        seed: int = 0,
        on_request: Callable[[str], None] | None = None,
        refuse: Callable[[dict[str, Any]], Any] = lambda body: None,
        reply: Callable[[str, dict[str, Any]], str] | None = None,
    ) -> None:
        self.refuse, self.reply = refuse, reply or caption
        self.faults, self.plan, self.on_request = faults or {}, list(plan), on_request
        self.rng, self.lock = random.Random(seed), threading.Lock()
        self.seen: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.prompt_tokens = self.completion_tokens = self.answered = 0
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.handle(self, body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # A client that was killed leaves a broken pipe: not worth a traceback.
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self) -> FakeEndpoint:
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def money(self) -> float:
        """At 1 in, 2 out for a million tokens."""
        return (self.prompt_tokens + 2 * self.completion_tokens) / 1e6

    def handle(self, http: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        texts, images = [], 0
        for message in body["messages"]:
            parts = message["content"]
            for part in [{"type": "text", "text": parts}] if isinstance(parts, str) else parts:
                texts += [part["text"]] if part["type"] == "text" else []
                images += part["type"] == "image_url"
        question = "\n".join(texts)
        if self.on_request is not None:
            self.on_request(question)
        with self.lock:
            fault = self._fault()
            self.seen[fault or "fine"] += 1
            self.requests.append(body)
            if "blocked thing" in question:
                fault = "blocked"
            elif "bad thing" in question:
                fault = "unprocessable"
            elif (told := self.refuse(body)) is not None:
                fault = json.dumps(told)
            elif "max_tokens" in body and body["model"] == "new-model":
                fault = "limit name"
            text = self.reply(question, body)
            prompt, completion = len(question.encode()) // 4 + IMAGE_TOKENS * images, len(text.split())
            limit = body.get("max_tokens") or body.get("max_completion_tokens") or 10**6
            if completion > limit:
                text, completion = " ".join(text.split()[:limit]), limit
            if not fault or fault in COMPUTED:
                self.prompt_tokens += prompt
                self.completion_tokens += completion
        reason = "length" if completion == limit else "stop"
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }
        self._send(http, fault, json.dumps(answer).encode())

    def _fault(self) -> str:
        if self.plan:
            return self.plan.pop(0)
        draw = self.rng.random()
        for fault, share in self.faults.items():
            if draw < share:
                return fault
            draw -= share
        return ""

    def _send(self, http: BaseHTTPRequestHandler, fault: str, good: bytes) -> None:
        status, body, headers = 200, good, {"Content-Type": "application/json"}
        if fault == "disconnect":
            http.close_connection = True
            return
        if fault[:1] in ("{", "["):
            status, body = 400, fault.encode()
        elif fault == "429":
            status, body = 429, b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}'
            headers["Retry-After"] = "0.02"
        elif fault == "quota":
            status, body = 429, b'{"error": {"message": "pay first", "code": "insufficient_quota"}}'
        elif fault == "500":
            status, body, headers = 500, b"<h1>oops</h1>", {"Content-Type": "text/html"}
        elif fault == "401":
            status, body = 401, b'{"error": {"message": "wrong key", "code": "invalid_api_key"}}'
        elif fault == "blocked":
            status, body = 400, b'{"error": {"message": "not that", "code": "content_filter"}}'
        elif fault == "unprocessable":
            status, body = 422, b'{"detail": "I do not like this picture"}'
        elif fault == "limit name":
            status, body = 400, b'{"error": {"message": "use max_completion_tokens instead"}}'
        elif fault == "malformed":
            body = good[: len(good) // 2]
        elif fault == "html":
            body, headers = b"<html>gateway</html>", {"Content-Type": "text/html"}
        elif fault == "no choices":
            body = b'{"id": "x", "choices": []}'
        elif fault == "timeout":
            time.sleep(2 * TIMEOUT)
        elif fault == "slow":
            time.sleep(TIMEOUT / 4)
        http.send_response(status)
        for name, value in headers.items():
            http.send_header(name, value)
        http.send_header("Content-Length", str(len(body)))
        http.end_headers()
        if fault == "half":
            http.wfile.write(body[: len(body) // 2])
            http.close_connection = True
            return
        http.wfile.write(body)
        with self.lock:
            self.answered += status == 200


def caption(question: str, body: dict[str, Any]) -> str:
    """A caption that differs for every request that differs; some class names bring trouble."""
    if "refused thing" in question:
        return "I'm sorry, but I can't help with describing that."
    if "empty thing" in question:
        return "  \n"
    if "looping thing" in question:
        return "a red thing and " * 30
    if "copying thing" in question:
        return "The very same words for every thing of this kind."
    seen = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]
    return f"A thing with the number {seen}, seen from the side, grey and rather small."
