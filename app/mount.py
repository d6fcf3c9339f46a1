"""The app at /ui of another server's application: what `rgpt serve --ui` calls."""

from __future__ import annotations

import os
from typing import Any

# Before Gradio is imported anywhere: it would otherwise contact two outside hosts.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

# `rgpt serve --ui` looks for both here.
from app.options import add_options, open_tools

__all__ = ["add_options", "mount", "mount_page", "open_tools"]


def mount(application: Any, model: Any, processor: Any, name: str, path: str = "/ui", **tools: Any) -> Any:
    """The FastAPI application with the page at `path`; model and processor are those that the server uses.

    Args:
        tools: what `open_tools` returns.
    """
    from app.engine import ModelEngine
    from app.examples import shown_with
    from app.page import build_page
    from app.privacy import use_own_folder

    use_own_folder()
    engine = ModelEngine(model, processor, name)
    page = build_page(engine, **shown_with(engine.about), **tools)
    return mount_page(application, page, path)


def mount_page(application: Any, page: Any, path: str = "/ui") -> Any:
    """The FastAPI application with a page of `build_page` at `path`; who may ask, `rgpt.serve.guard` says."""
    import gradio as gr
    from fastapi import Response

    from app.canvas import static_text
    from app.page import launch_options
    from rgpt.serve.guard import Guard

    # Gradio's page names /favicon.ico of the server's root, whatever its own path.
    @application.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(static_text("icon.svg"), media_type="image/svg+xml")

    guards = {middleware.cls for middleware in application.user_middleware}
    if Guard not in guards:
        application.add_middleware(Guard)
    return gr.mount_gradio_app(application, page, path=path, **launch_options())
