"""What can be assembled, tried on tiny checkpoints of every type: the table in docs/checkpoints.md.

    python -m scripts.checkpoints                               every type, printed
    python -m scripts.checkpoints --types gemma2 pixtral        some of them
    python -m scripts.checkpoints --write docs/checkpoints.md   every type, into the file

Weights are random and drawn here; each checkpoint is saved by the library it belongs to. A cell is `yes`, or
says what went wrong; a type that is refused shows the one sentence that `rgpt assemble` says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.files import write_text
from rgpt.model.assemble import Options, assemble_parts
from rgpt.model.loading import load
from rgpt.regions import Box
from scripts.checkpoint_kinds import HEADS, TEXT, TIMM, VISION, save_text, save_vision

COLUMNS = ("tensors equal", "three-turn chat", "batch of two", "rank")
BOXES = (Box(5, 5, 30, 30), Box(20, 20, 60, 50))
QUESTIONS = ("What is <region1>?", "What is beside <region2>?", "Is <region1> a dog?")
NAMES = ("dog", "cat", "a bus")
INTRODUCTION = """# What can be assembled

Printed by `python -m scripts.checkpoints --write docs/checkpoints.md` (transformers {version}); every row is
run by `tests/model/test_checkpoints.py`. Checkpoints are tiny, with random weights, saved by transformers or
timm themselves; vision towers go with a Llama, language models with a CLIP.

- **tensors equal**: every weight of the source, bit for bit.
- **features equal**: each cell is a vector of the source's own layer, and sees the pixels at its place.
  **logits equal**: to 1e-5.
- **three-turn chat**: the same answers and likelihoods with and without keys of earlier turns, past any
  sliding window.
- **batch of two**: two pictures with prompts of unlike length, padded, answered as each alone.
- **rank**: log-likelihoods of names as one whole pass over prompt and name gives them.

A refused type shows the sentence that `rgpt assemble` says; nothing is written then.
"""


@dataclass
class Row:
    """One checkpoint: why it is refused, or its cells by column."""

    name: str
    refused: str = ""
    cells: dict[str, str] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        return not self.refused and set(self.cells.values()) == {"yes"}

    def line(self) -> str:
        """The row as Markdown."""
        if self.refused:
            return f"| {self.name} | refused: {self.refused} |" + " |" * (len(COLUMNS) + 1)
        return f"| {self.name} | " + " | ".join(self.cells.values()) + " |"

    def check(self, column: str, holds: Callable[[], Any]) -> None:
        """Fill one cell; what is raised is a result, too."""
        try:
            self.cells[column] = "yes" if holds() else "no"
        except Exception as error:  # any failure of any model is what this table is to show
            self.cells[column] = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"


def try_text(name: str, folder: Path) -> Row:
    """One language model, with a CLIP that lies in `folder / "clip"` or is made there."""
    source = save_text(name, folder / name)
    if not (folder / "clip").is_dir():
        save_vision("clip", folder / "clip")
    row, opened = _assembled(name, folder / "clip", folder / name, folder / f"{name}+")
    if opened is not None:
        model, processor = opened
        body = getattr(source, source.base_model_prefix).state_dict()
        ids = torch.randint(3, 90, (2, 40), generator=torch.Generator().manual_seed(0))
        row.check("tensors equal", lambda: _equal(body, model.model.language_model.state_dict()))
        row.check("logits equal", lambda: _near(model(input_ids=ids).logits[..., :100], source(ids).logits))
        _conversations(row, model, processor)
    return row


def try_vision(name: str, folder: Path) -> Row:
    """One tower, with a Llama that lies in `folder / "llama"` or is made there."""
    source = save_vision(name, folder / name)
    if not (folder / "llama").is_dir():
        save_text("llama", folder / "llama")
    row, opened = _assembled(name, folder / name, folder / "llama", folder / f"{name}+")
    if opened is not None:
        model, processor = opened
        tower = model.model.vision_tower.state_dict()
        part, own = _find_tower(source, tower)
        row.check("tensors equal", lambda: _equal(own, tower))
        row.check("features equal", lambda: _same_features(model, part, processor.image_size))
        _conversations(row, model, processor)
    return row


def _find_tower(source: Any, tower: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """The module of what was saved that is the tower, and its weights under the tower's names.

    A part around which a head was built may have a layer more (a mask token) or less (the pooler, which is
    zero in the tower then).
    """
    prefix = next(iter(tower)).partition(".")[0] + "."
    found = []
    for part in source.modules():
        weights = part.state_dict()
        for own in (weights, {prefix + key: value for key, value in weights.items()}):
            common = own.keys() & tower.keys()
            found.append((len(common), -len(own), -len(found), part, {key: own[key] for key in common}))
    *_, part, own = max(found)
    zeros = {
        key: torch.zeros_like(tower[key]) for key in tower.keys() - own.keys() if ".pooler." in f".{key}"
    }
    return part, {**own, **zeros}


def _assembled(name: str, vision: Path, llm: Path, out: Path) -> tuple[Row, tuple[Any, Any] | None]:
    row = Row(name)
    try:
        assemble_parts(str(vision), str(llm), out, Options(refinement="bilinear", merge_grid=2))
    except InputError as error:
        row.refused = str(error).replace(str(vision), name).replace(str(llm), name)
        return row, None
    except Exception as error:
        row.cells["assembles"] = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        return row, None
    row.cells["assembles"] = "yes"
    model, processor = load(out, device="cpu")
    return row, (model.float().eval(), processor)


def _equal(source: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> bool:
    """Whether ours are the source's weights, in tables of words perhaps with more rows."""
    return source.keys() == ours.keys() and all(
        torch.equal(value, ours[key][: len(value)] if value.ndim else ours[key])
        for key, value in source.items()
    )


def _near(ours: Any, theirs: Any, within: float = 1e-5) -> bool:
    return bool(torch.allclose(ours, theirs, rtol=0, atol=within * max(1.0, float(theirs.abs().max()))))


def _same_features(model: Any, source: Any, size: int) -> bool:
    """Whether our cells are vectors of the source's layer, each where its pixels are.

    How the source orders them is not asked: a cell's own pixels are changed, and what changes most on the map
    must move with them.
    """
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    tower = model.model.vision_tower
    ours = model.model.vision_features(pixels)
    channels, grid = ours.shape[1], model.config.vision_grid
    for picture, cells in zip(pixels, ours.flatten(2).transpose(1, 2), strict=True):
        layer = _layer(source, picture[None], model.config.vision_feature_layer)[0]
        if layer.ndim == 3 and layer.shape[0] == channels:
            layer = layer.permute(1, 2, 0)
        apart = torch.cdist(cells, layer.reshape(-1, channels), compute_mode="donot_use_mm_for_euclid_dist")
        if float(apart.min(1).values.max()) > 1e-4 * max(1.0, float(cells.abs().max())):
            return False
    tower.double()  # through many layers of random weights little comes from one cell
    ours = model.model.vision_features(pixels)
    places, centres, side = [], [], size // grid
    steps = torch.arange(grid).double()
    for number in range(min(grid * grid, 9)):
        row, column = divmod(number * 11 % (grid * grid), grid)
        changed = pixels.clone()
        changed[..., row * side : (row + 1) * side, column * side : (column + 1) * side] *= -1.0
        moved = (model.model.vision_features(changed) - ours).norm(dim=1).mean(0) ** 2
        moved = moved / moved.sum()
        places.append([float(row), float(column)])
        centres.append([float(moved.sum(1) @ steps), float(moved.sum(0) @ steps)])
    tower.float()
    related = torch.corrcoef(torch.tensor([*zip(*places, strict=True), *zip(*centres, strict=True)]))
    return grid > 1 and bool((related[[0, 1], [2, 3]] > 0.5).all())


def _layer(source: Any, picture: Tensor, layer: int | None) -> Any:
    if hasattr(source, "forward_intermediates"):  # timm
        last, layers = source.forward_intermediates(picture)
        return last if layer is None else layers[layer]
    if layer is None:
        return source(picture, return_dict=True).last_hidden_state
    return source(picture, return_dict=True, output_hidden_states=True).hidden_states[layer]


def _conversations(row: Row, model: Any, processor: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    pictures = [Image.fromarray(each) for each in noise]
    row.check("three-turn chat", lambda: _same_talk(ChatSession(model, processor), pictures[0]))
    row.check("batch of two", lambda: _same_batch(model, processor, pictures))
    row.check("rank", lambda: _same_rank(model, processor, pictures[0]))


def _same_talk(session: ChatSession, picture: Image.Image) -> bool:
    session.set_image(picture)
    for box in BOXES:
        session.add_region(box)
    talks: list[list[Any]] = []
    for fresh in (False, True):
        said: list[Any] = []
        session.reset()
        speaker = session
        for question in QUESTIONS:
            for ask in ("ask", "rank"):
                if fresh:  # another session has read nothing yet
                    alone = speaker.another()
                    alone.regions, alone.turns = dict(session.regions), list(speaker.turns)
                    speaker = alone
                said.append(
                    speaker.ask(question, max_new_tokens=4) if ask == "ask" else speaker.rank(question, NAMES)
                )
        talks.append(said)
    return all(
        a == b if isinstance(a, str) else all(abs(a[name] - b[name]) < 1e-4 for name in NAMES)
        for a, b in zip(*talks, strict=True)
    )


def _same_batch(model: Any, processor: Any, pictures: Sequence[Image.Image]) -> bool:
    chats = [[_asked(QUESTIONS[0])], [_asked("Tell me: " + QUESTIONS[1])]]
    regions = [dict(enumerate(BOXES, 1))] * 2

    def answers(rows: slice) -> list[list[int]]:
        batch = processor.encode_chat(
            chats[rows], images=[[each] for each in pictures[rows]], regions=regions[rows],
            add_generation_prompt=True,
        )  # fmt: skip
        made = model.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        return [row[batch["input_ids"].shape[1] :].tolist() for row in made]

    return answers(slice(2)) == answers(slice(1)) + answers(slice(1, 2))


def _same_rank(model: Any, processor: Any, picture: Image.Image) -> bool:
    session = ChatSession(model, processor)
    session.set_image(picture)
    session.add_region(BOXES[0])
    ranked = session.rank(QUESTIONS[0], NAMES)
    prompt = processor.encode_chat(
        [_asked(QUESTIONS[0])], images=[picture], regions=[BOXES[0]], add_generation_prompt=True
    )
    for name in NAMES:
        tail = torch.tensor([session._tail(name)])
        ids = torch.cat([prompt["input_ids"], tail], dim=1)
        logs = model(
            **{**prompt, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        ).logits.log_softmax(-1)
        steps = logs[0, -tail.shape[1] - 1 : -1].gather(1, tail.T)
        if abs(float(steps.mean()) - ranked[name]) > 1e-4:
            return False
    return True


def _asked(question: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}


def table(rows: Sequence[Row], equal: str) -> str:
    """Rows as a Markdown table; `equal` is the column of features or logits."""
    columns = ["", "assembles", COLUMNS[0], equal, *COLUMNS[1:]]
    head = f"| {' | '.join(columns)} |".replace("|  |", "| |")
    return "\n".join([head, "|" + "---|" * len(columns), *(row.line() for row in rows)])


def page(vision: Sequence[Row], text: Sequence[Row]) -> str:
    """The whole of docs/checkpoints.md, or of those rows that there are."""
    parts = [INTRODUCTION.format(version=transformers.__version__)]
    for title, rows, equal in (
        ("Vision towers", vision, "features equal"),
        ("Language models", text, "logits equal"),
    ):
        if rows:
            works = sum(row.works for row in rows)
            told = f"{len(rows)} types: {works} work, {sum(bool(row.refused) for row in rows)} are refused."
            parts.append(f"## {title}\n\n{told}\n\n{table(rows, equal)}\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    known = {**dict.fromkeys([*VISION, *HEADS, *TIMM], try_vision), **dict.fromkeys(TEXT, try_text)}
    parser = argparse.ArgumentParser(
        prog="python -m scripts.checkpoints", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--types", nargs="+", choices=sorted(known), metavar="TYPE", help="default: all")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = [name for name in known if not given.types or name in given.types]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        rows = [known[name](name, Path(folder)) for name in tqdm(names, desc="checkpoints", unit="type")]
    vision = [row for row in rows if known[row.name] is try_vision]
    text = page(vision, [row for row in rows if known[row.name] is try_text])
    if given.write is not None:
        write_text(given.write, text)
    else:
        print(text)
    return 0 if all(row.works or row.refused for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
