"""The HTTP side: `POST /v1/chat/completions`, `/v1/regions`, `GET /v1/models`, `/health`, `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from rgpt import __version__
from rgpt.serve import many
from rgpt.serve.body import Bodies
from rgpt.serve.choices import Ended, Said
from rgpt.serve.errors import ApiError, internal
from rgpt.serve.guard import Guard, Keys
from rgpt.serve.protocol import ChatRequest, ErrorBody, Reply, parse_request, usage_json
from rgpt.serve.service import Service
from rgpt.serve.streams import ClientGone, EventStream, line, unless_gone

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

    async def read(request: Request, parse: Callable[[bytes], T], held: contextlib.AsyncExitStack) -> T:
        """The request of a body, which counts until `held` is closed."""
        body = await held.enter_async_context(bodies.read(request))
        if len(body[0]) < 2**18:
            return parse(body.pop())
        # Large ones one at a time: each takes its multiple of memory meanwhile.
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

    @app.post("/v1/chat/completions", **_documentation("ChatRequest"))
    async def chat(request: Request) -> Response:
        who = caller(request)
        async with contextlib.AsyncExitStack() as held:
            asked = await read(request, parse_request, held)
            reply = Reply(check_model(asked.model))
            events = service.answer(asked, who)
            if asked.stream:
                # Nothing is sent before the first piece, so that whatever is wrong is still a proper 4xx.
                first = await unless_gone(request, anext(events))
                usage_wanted = asked.stream_options is not None and bool(asked.stream_options.include_usage)
                return EventStream(events, chat_lines(events, first, reply, usage_wanted), held.pop_all())
            texts, ended = await unless_gone(request, _whole(events))
        usage = usage_json(ended.prompt_tokens, ended.cached_tokens, ended.answer_tokens)
        return JSONResponse(reply.completion(texts, ended.finish_reasons, usage, bool(asked.logprobs)))

    @app.post("/v1/regions", **_documentation("RegionsRequest"))
    async def regions(request: Request) -> Response:
        who = caller(request)
        async with contextlib.AsyncExitStack() as held:
            asked = await read(request, many.parse_request, held)
            reply = many.Reply(check_model(asked.model))
            events = many.answer(service, asked, who)
            if asked.stream:
                first = await unless_gone(request, anext(events))
                return EventStream(events, reply.lines(events, first), held.pop_all())
            return JSONResponse(await unless_gone(request, reply.whole(events)))

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


async def _whole(events: AsyncGenerator[Said | Ended, None]) -> tuple[list[Said], Ended]:
    pieces: list[Said] = []
    async with contextlib.aclosing(events):
        async for event in events:
            if isinstance(event, Ended):
                return [_joined(i, pieces) for i in range(len(event.finish_reasons))], event
            pieces.append(event)
    raise internal()  # every answer ends with Ended


def _joined(index: int, pieces: Sequence[Said]) -> Said:
    own = [piece for piece in pieces if piece.index == index]
    tokens = tuple(token for piece in own for token in piece.tokens)
    return Said(index, "".join(piece.text for piece in own), tokens)


async def chat_lines(
    events: AsyncGenerator[Said | Ended, None], event: Said | Ended, reply: Reply, usage_wanted: bool
) -> AsyncIterator[str]:
    """The chunks of a chat completion, whose first event has come already."""
    begun: set[int] = set()
    opening = {"role": "assistant", "content": ""}
    try:
        while not isinstance(event, Ended):
            if event.index not in begun:
                begun.add(event.index)
                yield line(reply.chunk(opening, index=event.index))
            yield line(reply.chunk({"content": event.text}, index=event.index, tokens=event.tokens))
            event = await anext(events)
    except ApiError as error:
        yield line(error.body())
        return
    except Exception:
        yield line(internal().body())
        raise
    for index, reason in enumerate(event.finish_reasons):
        if index not in begun:
            yield line(reply.chunk(opening, index=index))
        yield line(reply.chunk({}, reason, index))
    if usage_wanted:
        yield line(
            reply.usage_chunk(usage_json(event.prompt_tokens, event.cached_tokens, event.answer_tokens))
        )
    yield "data: [DONE]\n\n"


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


def _documentation(form: str) -> dict[str, Any]:
    # The body is read by hand, for the caps that lie before parsing; so its schema is written by hand too.
    schema = {"$ref": f"#/components/schemas/{form}"}
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
                [(kind, "validation") for kind in (ChatRequest, many.RegionsRequest, ErrorBody)],
                ref_template="#/components/schemas/{model}",
            )
            schema = plain()
            schema.setdefault("components", {}).setdefault("schemas", {}).update(own["$defs"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
