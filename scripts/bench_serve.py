"""First text over HTTP: turn 1 on a new picture against turn 2 on the same picture.

    python -m scripts.bench serve [--model tiny] [--repeats 5]

Turn 2 sends the whole conversation and the picture again, as the protocol asks for; the server must know both
by their contents and encode nothing. Measured through `rgpt serve` in a process of its own, for a drawn scene
as it is and for one enlarged to a photograph of 4000 pixels.

Then 64 regions of one picture, in one request to `/v1/regions` and in 64 chat completions over one kept-alive
connection to the same server, in turns, each time on a picture that the server has not seen.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import time
from typing import TYPE_CHECKING, Any

from scripts.load_serve import start_server
from scripts.measuring import Figure

if TYPE_CHECKING:
    import httpx
    from PIL import Image

LONGER_SIDE = 4000
AT_ONCE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m scripts.bench serve`."""
    parser.add_argument("--model", default="tiny", help="as for `rgpt serve` (default: tiny)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="conversations (default: 5)")
    parser.set_defaults(run=bench_serve)


def bench_serve(options: argparse.Namespace) -> list[Figure]:
    """Milliseconds to the first text of both turns, and their ratio in each conversation."""
    import httpx

    from rgpt.data.scenes import draw_scene

    process, url = start_server(options.model)
    figures = []
    try:
        with httpx.Client(base_url=url, timeout=300) as client:
            for name, kind, larger in (("scene", "PNG", False), ("photograph", "JPEG", True)):
                turns = []
                for seed in range(options.repeats + 1):
                    scene = draw_scene(seed)
                    image, box = scene.image, scene.objects[0].box.xyxy
                    if larger:
                        scale = LONGER_SIDE / max(image.size)
                        image = image.resize((round(image.width * scale), round(image.height * scale)))
                        box = tuple(scale * value for value in box)
                    turns.append(conversation(client, encoded(image, kind), list(box)))
                del turns[0]  # the first pays for allocating and for choosing kernels
                size = f"{name}, {image.width}×{image.height}"
                figures += [
                    Figure(f"turn 1, {size}", "ms", [1000 * first for first, _ in turns]),
                    Figure(f"turn 2, {size}", "ms", [1000 * second for _, second in turns]),
                    Figure(f"turn 2 / turn 1, {name}", "", [b / a for a, b in turns], at_most=0.35),
                ]
            figures += many_regions(client, options.repeats)
    finally:
        process.terminate()
        process.wait(timeout=60)
    return figures


def many_regions(client: httpx.Client, repeats: int) -> list[Figure]:
    """One request about `AT_ONCE` regions against as many requests: times, what was encoded and read."""
    from rgpt.data.scenes import draw_scene

    together, apart, ratios, encoded_once, read, equal = ([] for _ in range(6))
    for repeat in range(repeats + 1):
        scene = draw_scene(repeat)
        width, height = scene.image.size
        cells = [(width * (k % 8) / 8, height * (k // 8) / 8) for k in range(AT_ONCE)]
        boxes = [[x, y, x + width / 8, y + height / 8] for x, y in cells]
        pictures = []
        for shade in (1, 2):  # unlike bytes: neither way finds the other's picture
            image = scene.image.copy()
            image.putpixel((0, 0), (shade, 0, 0))
            pictures.append(encoded(image, "PNG"))
        before = pictures_encoded(client)
        started = time.perf_counter()
        whole = post(client, "/v1/regions", many_request(pictures[0], boxes))
        seconds_together = time.perf_counter() - started
        encodings = pictures_encoded(client) - before
        started = time.perf_counter()
        answers = []
        for box in boxes:
            parts = [
                {"type": "image_url", "image_url": {"url": pictures[1]}},
                {"type": "text", "text": "Describe <region1>."},
            ]
            request = {"messages": [{"role": "user", "content": parts}], "regions": [{"box": box}]}
            reply = post(client, "/v1/chat/completions", {"model": "rgpt", **request})
            answers.append(reply["choices"][0]["message"]["content"])
        seconds_apart = time.perf_counter() - started
        again = post(client, "/v1/regions", many_request(pictures[1], boxes))
        if repeat:  # the first pays for allocating and for choosing kernels
            together.append(1000 * seconds_together)
            apart.append(1000 * seconds_apart)
            ratios.append(seconds_apart / seconds_together)
            encoded_once.append(encodings)
            usage = whole["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            read.append((usage["prompt_tokens"] - cached) / usage["prompt_tokens"])
            same = [item["answer"] == said for item, said in zip(again["data"], answers, strict=True)]
            equal.append(sum(same) / len(same))
    return [
        Figure(f"{AT_ONCE} regions, one request", "ms", together),
        Figure(f"{AT_ONCE} regions, {AT_ONCE} requests", "ms", apart),
        Figure("requests / one request", "", ratios, at_least=5),
        Figure("pictures encoded in one request", "", encoded_once, at_most=1),
        Figure("share of prompt tokens read", "", read),
        Figure("share of equal answers", "", equal, at_least=1),
    ]


def many_request(picture: str, boxes: list[list[float]]) -> dict[str, Any]:
    regions = [{"box": box} for box in boxes]
    return {"model": "rgpt", "image": picture, "regions": regions, "question": "Describe <region>."}


def post(client: httpx.Client, path: str, request: dict[str, Any]) -> dict[str, Any]:
    response = client.post(path, json=request)
    if response.status_code != 200:
        raise SystemExit(f"bench: the server answered {response.status_code}: {response.text[:300]!r}")
    return response.json()


def pictures_encoded(client: httpx.Client) -> float:
    """How many pictures the server has encoded."""
    found = re.search(r'rgpt_pictures_total\{cache="miss"\} (\S+)', client.get("/metrics").text)
    return float(found[1]) if found else 0.0


def encoded(image: Image.Image, kind: str) -> str:
    """A data URL."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def conversation(client: httpx.Client, picture: str, box: list[float]) -> tuple[float, float]:
    """Seconds to the first text of two turns about one picture."""
    question = "Describe <region1>."
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    first, answer = ask(client, messages, box)
    # The same question again: what differs between the turns is the picture and what is kept, nothing else.
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
    second, _ = ask(client, messages, box)
    return first, second


def ask(client: httpx.Client, messages: list[dict[str, Any]], box: list[float]) -> tuple[float, str]:
    """Seconds to the first text, and the whole answer."""
    request = {"model": "rgpt", "messages": messages, "regions": [{"box": box}], "stream": True}
    body = json.dumps(request).encode()
    headers = {"Content-Type": "application/json"}
    first = None
    pieces = []
    started = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", content=body, headers=headers) as response:
        if response.status_code != 200:
            raise SystemExit(f"bench: the server answered {response.status_code}: {response.read()[:300]!r}")
        for line in response.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:]).get("choices")
                if choices and (piece := choices[0]["delta"].get("content")):
                    first = first or time.perf_counter() - started
                    pieces.append(piece)
    if first is None:
        raise SystemExit("bench: the model answered nothing, so there is no first text to time.")
    return first, "".join(pieces)
