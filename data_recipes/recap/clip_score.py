"""CLIP score of captions: does the text fit the close-up? What `samples --min-clip` filters by [N].

A text tower reads 77 tokens at most and a caption is longer: it is scored sentence by sentence, and the mean
of the cosines counts [D]. Scores go to `scores.jsonl` beside the journals, with the journal's own promises.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from tqdm import tqdm

from data_recipes.recap.state import journals
from rgpt.asking.answers import OK
from rgpt.errors import InputError
from rgpt.hub import open_pretrained
from rgpt.journal import Journal, read_journal
from rgpt.regions import region_from_json

SCORES = "scores.jsonl"
MARGIN = 0.1


class Scorer(Protocol):
    """Anything that says how well each text fits its picture."""

    def cosines(self, pictures: list[Image.Image], texts: list[list[str]]) -> list[list[float]]:
        """For every picture, the cosine (-1..1) of each of its texts."""
        ...


@dataclass
class ClipScorer:
    """CLIP from a folder: one of transformers (`config.json`) or of open_clip (`open_clip_config.json`)."""

    folder: Path

    def __post_init__(self) -> None:
        from rgpt.model.device import device_of

        self._device = device_of()
        try:
            if (self.folder / "open_clip_config.json").is_file():
                self._open_clip()
            elif (self.folder / "config.json").is_file():
                self._transformers()
            else:
                raise InputError.about(
                    f"CLIP folder {str(self.folder)!r}",
                    "config.json or open_clip_config.json in it",
                    "neither",
                    "download a CLIP model there",
                )
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            reason = str(error).strip().split("\n")[0][:200]
            raise InputError(
                f"CLIP folder {str(self.folder)!r}: cannot be opened ({reason}); download it again."
            ) from error

    def _transformers(self) -> None:
        from transformers import AutoModel, AutoProcessor

        model = open_pretrained(AutoModel, self.folder, local_files_only=True, use_safetensors=True)
        model = model.to(self._device).eval()
        processor = open_pretrained(AutoProcessor, self.folder, local_files_only=True)
        if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
            raise InputError(f"CLIP folder {str(self.folder)!r}: holds {type(model).__name__}, not a CLIP.")
        # SigLIP was trained on texts padded to full length and scores others wrongly.
        padding = "max_length" if "siglip" in model.config.model_type else True

        def encode_images(pictures: list[Image.Image]) -> Any:
            batch = processor(images=pictures, return_tensors="pt").to(self._device)
            return _features(model.get_image_features(**batch))

        def encode_texts(texts: list[str]) -> Any:
            batch = processor(text=texts, return_tensors="pt", padding=padding, truncation=True)
            return _features(model.get_text_features(**batch.to(self._device)))

        self._encode_images, self._encode_texts = encode_images, encode_texts

    def _open_clip(self) -> None:
        import open_clip
        import torch

        name = f"local-dir:{self.folder}"
        # weights_only: a checkpoint of open_clip may be a pickle, and its code must not run.
        model, preprocess = open_clip.create_model_from_pretrained(
            name, device=self._device, weights_only=True
        )
        model.eval()
        tokenizer = open_clip.get_tokenizer(name)

        def encode_images(pictures: list[Image.Image]) -> Any:
            return model.encode_image(torch.stack([preprocess(p) for p in pictures]).to(self._device))

        def encode_texts(texts: list[str]) -> Any:
            return model.encode_text(tokenizer(texts).to(self._device))

        self._encode_images, self._encode_texts = encode_images, encode_texts

    def cosines(self, pictures: list[Image.Image], texts: list[list[str]]) -> list[list[float]]:
        import torch

        with torch.inference_mode():
            seen = self._encode_images(pictures).float()
            read = self._encode_texts([text for some in texts for text in some]).float()
        seen, read = (x / x.norm(dim=-1, keepdim=True) for x in (seen, read))
        cosines, start = [], 0
        for i, some in enumerate(texts):
            cosines.append((read[start : start + len(some)] @ seen[i]).tolist())
            start += len(some)
        return cosines


def _features(output: Any) -> Any:
    """`get_*_features` gives a tensor in some versions and an output with `pooler_output` in others."""
    return getattr(output, "pooler_output", output)


def sentences(text: str) -> list[str]:
    """The text's sentences, at least one."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?。！？])\s+", text.strip())]
    return [part for part in parts if re.search(r"\w", part)] or [text.strip()]


def score(folder: Path, scorer: Scorer, model: str, batch: int = 32) -> int:
    """Score every caption of the folder's journals that has no score yet; returns how many were scored.

    Raises:
        InputError: without journals, with scores of another model, or when a picture is gone.
    """
    known: dict[str, float] = {}

    def replay(record: dict[str, Any]) -> None:
        known[record["id"]] = record["score"]

    paths = journals(folder)
    with Journal(folder / SCORES, {"model": model, "margin": MARGIN}, replay) as scores:
        return asyncio.run(_score(folder, paths, scorer, batch, scores, known))


async def _score(
    folder: Path, paths: list[Path], scorer: Scorer, batch: int, scores: Journal, known: dict[str, float]
) -> int:
    total = sum(1 for _ in _captions(paths))
    left = (record for record in _captions(paths) if record["id"] not in known)
    done = 0
    with tqdm(total=total, initial=len(known), desc="scoring", unit="caption") as bar:
        while some := list(islice(left, batch)):
            pictures = [_close_up(folder, record) for record in some]
            found = scorer.cosines(pictures, [sentences(record["caption"]) for record in some])
            lines = [
                {"kind": "score", "id": record["id"], "score": sum(cosines) / len(cosines)}
                for record, cosines in zip(some, found, strict=True)
            ]
            await asyncio.gather(*(scores.append(line) for line in lines))
            done += len(some)
            bar.update(len(some))
    return done


def _captions(paths: list[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for record in read_journal(path):
            if record["kind"] == "region" and record["status"] == OK:
                yield record


def _close_up(folder: Path, record: dict[str, Any]) -> Image.Image:
    from rgpt.regions import open_image
    from rgpt.regions.close_up import close_up

    return close_up(open_image(folder / record["image"]), region_from_json(record["region"]), MARGIN)


def scores_of(folder: Path) -> dict[str, float]:
    """Region id → score. Raises InputError when nothing was scored."""
    path = folder / SCORES
    if not path.is_file():
        raise InputError(f"{folder}: there are no CLIP scores; run `score` first, or leave --min-clip out.")
    return {record["id"]: record["score"] for record in read_journal(path) if record["kind"] == "score"}
