"""The HTTP side: `POST /v1/chat/completions`, `GET /v1/models`, `/health`, `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from rgpt import __version__
from rgpt.serve.body import Bodies
from rgpt.serve.errors import ApiError, internal
from rgpt.serve.guard import Guard, Keys
from rgpt.serve.protocol import ChatRequest, ErrorBody, Reply, parse_request, usage_json
from rgpt.serve.service import Ended, Service

T = TypeVar("T")
log = logging.getLogger("rgpt.serve")


def create_app(
    service: Service,
    models: Sequence[str],
    api_keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    hosts: Sequence[str] = (),
    proxies: Sequence[str] = (),
) -> FastAPI:
    """The application.

    Args:
        models: names that requests may use; the first is what answers say.
        api_keys: with any, `/v1/*` needs `Authorization: Bearer KEY`, and a page mounted beside it one of
            them as its password. Health and metrics stay open.
        origins: pages of these may ask from a browser (CORS), as `https://HOST`; `*` is any page.
        hosts, proxies: see `rgpt.serve.guard.Guard`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.close()
            parser.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="rgpt", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    bodies = Bodies(service.settings)
    parser = ThreadPoolExecutor(1, thread_name_prefix="rgpt-parsing")

    async def parsing(parse: Callable[[bytes], ChatRequest], body: list[bytes]) -> ChatRequest:
        return await asyncio.get_running_loop().run_in_executor(parser, lambda: parse(body.pop()))

    created = int(time.time())
    keys = Keys(api_keys)

    def caller(request: Request) -> str:
        """Whom what is kept belongs to: a hash of the key, or 401; where none is needed, an address."""
        if not keys:
            return request.client.host if request.client else ""
        if (who := keys.bearer(request.headers.get("authorization", ""))) is not None:
            return who
        raise ApiError(
            "invalid_api_key",
            "The API key is missing or wrong: send it as Authorization: Bearer KEY.",
            status=401,
            headers={"WWW-Authenticate": "Bearer"},
        )

    def model_entry(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "rgpt"}

    def check_model(name: str) -> str:
        if name not in models:
            raise ApiError(
                "model_not_found",
                f"There is no model {name[:80]!r}: this server has {', '.join(models)}.",
                param="model",
                status=404,
            )
        return models[0]

    @app.post("/v1/chat/completions", **_chat_documentation())
    async def chat(request: Request) -> Response:
        who = caller(request)
        async with contextlib.AsyncExitStack() as held:
            body = await held.enter_async_context(bodies.read(request))
            short = len(body[0]) < 2**18
            # Large ones one at a time: each takes its multiple of memory meanwhile.
            asked = parse_request(body.pop()) if short else await parsing(parse_request, body)
            reply = Reply(check_model(asked.model))
            events = service.answer(asked, who)
            if asked.stream:
                # Nothing is sent before the first piece, so that whatever is wrong is still a proper 4xx.
                first = await unless_gone(request, anext(events))
                usage_wanted = asked.stream_options is not None and bool(asked.stream_options.include_usage)
                return EventStream(events, first, reply, usage_wanted, held.pop_all())
            text, ended = await unless_gone(request, _whole(events))
        usage = usage_json(ended.prompt_tokens, ended.cached_tokens, ended.answer_tokens)
        return JSONResponse(reply.completion(text, ended.finish_reason, usage))

    @app.get("/v1/models", responses=ERRORS)
    async def list_models(request: Request) -> dict[str, Any]:
        caller(request)
        return {"object": "list", "data": [model_entry(name) for name in models]}

    @app.get("/v1/models/{name:path}", responses=ERRORS)
    async def show_model(request: Request, name: str) -> dict[str, Any]:
        caller(request)
        check_model(name)
        return model_entry(name)

    @app.get("/health", responses={503: {"description": "shutting down"}})
    async def health() -> Response:
        """200 while requests are taken, 503 while the server shuts down."""
        state = {
            "status": "draining" if service.draining else "ok",
            "model": models[0],
            "running": service.slots.running,
            "waiting": service.slots.waiting,
        }
        return JSONResponse(state, status_code=503 if service.draining else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    app.add_middleware(AsClientsAsk, origins=origins)
    app.add_middleware(Guard, keys=api_keys, hosts=hosts, proxies=proxies, api=True)
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientGone, _on_client_gone)
    app.add_exception_handler(Exception, _on_failure)
    _add_schemas(app)
    return app


class AsClientsAsk:
    """Takes a slash at the end of our paths, and HEAD where GET is: uvicorn then sends the headers alone.

    Starlette would redirect the former, which POST does not survive everywhere. Pages of `origins` may ask
    for our paths; a page at /ui is left alone in all of this.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str] = ()) -> None:
        self.app = self.ours = app
        if origins:
            self.ours = CORSMiddleware(
                app,
                allow_origins=list(origins),
                allow_methods=["GET", "HEAD", "POST"],
                allow_headers=["*"],  # whichever it asks for: the official client sends a dozen of its own
                expose_headers=["Retry-After"],
                allow_private_network=True,  # a page of the internet that was allowed may ask this machine
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/") if scope["type"] == "http" else ""
        if not path.startswith("/v1/") and path not in ("/health", "/metrics", "/openapi.json"):
            await self.app(scope, receive, send)
            return
        # A copy: uvicorn looks up in its own whether a body is to be sent.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        try:
            await self.ours({**scope, "path": path, "method": method}, receive, send)
        except asyncio.CancelledError:  # at the end of a shutdown's patience; uvicorn would print where
            log.warning("a request to %s was cancelled", path)


class ClientGone(Exception):
    """The client has left; nobody reads the answer."""


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client leaves before.

    Raises:
        ClientGone: it has left.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, watch):
            if not each.done():
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await each


async def _whole(events: AsyncGenerator[str | Ended, None]) -> tuple[str, Ended]:
    pieces: list[str] = []
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, Ended):
                return "".join(pieces), event
            pieces.append(event)
    raise internal()  # every answer ends with Ended


class EventStream(StreamingResponse):
    """Server-sent events of one answer. The answer's generator, then `held`, is closed however the response
    ends."""

    def __init__(
        self,
        events: AsyncGenerator[str | Ended, None],
        first: str | Ended,
        reply: Reply,
        usage: bool,
        held: contextlib.AsyncExitStack,
    ) -> None:
        self.events, self.held = events, held
        super().__init__(
            self._lines(first, reply, usage),
            media_type="text/event-stream",
            # Proxies must not collect the pieces.
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.events.aclose()
            await self.held.aclose()

    async def _lines(self, first: str | Ended, reply: Reply, usage_wanted: bool) -> AsyncIterator[str]:
        yield _line(reply.chunk({"role": "assistant", "content": ""}))
        event = first
        try:
            while not isinstance(event, Ended):
                yield _line(reply.chunk({"content": event}))
                event = await anext(self.events)
        except ApiError as error:
            yield _line(error.body())
            return
        except Exception:
            yield _line(internal().body())
            raise
        yield _line(reply.chunk({}, event.finish_reason))
        if usage_wanted:
            usage = usage_json(event.prompt_tokens, event.cached_tokens, event.answer_tokens)
            yield _line(reply.usage_chunk(usage))
        yield "data: [DONE]\n\n"


def _line(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _on_api_error(_: Request, error: Any) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _on_http_error(request: Request, error: Any) -> Response:
    """Unknown paths and methods."""
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    message = f"{request.method} {request.url.path[:200]}: {error.detail}."
    body = ApiError(code, message, status=error.status_code).body()
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _on_client_gone(_: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _on_failure(_: Request, error: Exception) -> Response:
    return JSONResponse(internal().body(), status_code=500)


# ---------------------------------------------------------------------------------------------- documentation

_ERROR = {
    "description": "an error",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
}
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": _ERROR, "5XX": _ERROR}


def _chat_documentation() -> dict[str, Any]:
    # The body is read by hand, for the caps that lie before parsing; so its schema is written by hand too.
    schema = {"$ref": "#/components/schemas/ChatRequest"}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    answer = {
        "description": "The answer; with `stream` as server-sent events.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
    return {"openapi_extra": {"requestBody": body}, "responses": {200: answer, **ERRORS}}


def _add_schemas(app: FastAPI) -> None:
    plain: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _, own = models_json_schema(
                [(ChatRequest, "validation"), (ErrorBody, "validation")],
                ref_template="#/components/schemas/{model}",
            )
            schema = plain()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(own["$defs"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
