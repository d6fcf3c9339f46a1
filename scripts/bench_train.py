"""Training speed beside `LlavaForConditionalGeneration`, with the same language model, samples and tokens.

    python -m scripts.bench train [--steps 12] [--batch 16] [--threads N] [--json FILE]

On a CPU the language model is that of `tiny`; on a GPU (where one is present) the 7B shape with random
weights in bf16, stage 1, which fits one 80 GB device. Both models have the same CLIP tower, frozen, and are
trained with AdamW on the same random mixed-length samples: text only, pictures, regions. LLaVA gets padded
batches with an attention mask, as its collator makes them, with and without the dummy picture that its recipe
gives to text without one. Each configuration takes its steps in turn with the others, so that a busy machine
slows all alike.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.measuring import Figure, add_threads

if TYPE_CHECKING:
    from rgpt.model.conversation import Conversation

PARTS = ("data", "tower", "forward", "backward", "optimiser")


@dataclass
class Config:
    """One way to train: a name, and a step that returns seconds by part."""

    name: str
    step: Callable[[list[Conversation]], dict[str, float]]
    seconds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)


class Clock:
    """Seconds between marks; waits for an accelerator first."""

    def __init__(self, cuda: bool) -> None:
        self.cuda, self.at, self.parts = cuda, time.perf_counter(), dict.fromkeys(PARTS, 0.0)

    def mark(self, part: str) -> None:
        if self.cuda:
            import torch

            torch.cuda.synchronize()
        now = time.perf_counter()
        self.parts[part] += now - self.at
        self.at = now


def make_models(cuda: bool) -> tuple[Any, Any]:
    """(RegionGPT, LLaVA): same tower shape, same language model shape, same number of image tokens."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from rgpt.model import RegionGPTConfig, RegionGPTForConditionalGeneration
    from rgpt.model.configuration_regiongpt import CLIP_L_336, VICUNA_7B
    from rgpt.model.loading import TINY

    torch.manual_seed(0)
    if cuda:
        vision = {key: value for key, value in CLIP_L_336.items() if key != "model_type"}
        text = LlamaConfig(**{key: value for key, value in VICUNA_7B.items() if key != "model_type"})
    else:
        tiny: Any = RegionGPTConfig.from_pretrained(TINY)
        text = LlamaConfig(**{**tiny.text_config.to_dict(), "dtype": "float32"})
        vision = {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        }
        vision |= {"image_size": 96, "patch_size": 16}
    ids = {"image_token_id": text.vocab_size - 2, "region_token_id": text.vocab_size - 1}
    tied = bool(text.tie_word_embeddings)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if cuda else torch.float32)
    device = torch.device("cuda" if cuda else "cpu")
    try:
        with device:
            ours = RegionGPTForConditionalGeneration(
                RegionGPTConfig(
                    vision_config=CLIPVisionConfig(**vision),
                    text_config=text,
                    tie_word_embeddings=tied,
                    **ids,
                )
            )
            llava = LlavaForConditionalGeneration(
                LlavaConfig(
                    vision_config=CLIPVisionConfig(**vision),
                    text_config=text,
                    image_token_index=ids["image_token_id"],
                    tie_word_embeddings=tied,
                )
            )
    finally:
        torch.set_default_dtype(previous)
    return ours, llava


def make_samples(model: Any, count: int, seed: int = 0) -> list[Conversation]:
    """Random samples: a quarter text only, a quarter with a picture, half with one to six regions; answers of
    5 to 300 tokens, short ones oftener, about as the mixtures of instruction data are."""
    import torch

    from rgpt.model.conversation import Conversation

    config, chance = model.config, random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    words = config.text_config.vocab_size - 4
    made = []
    for number in range(count):
        answer = int(5 * 60 ** chance.random())
        question = chance.randint(8, 40)
        pictured = number % 4 > 0
        regions = chance.randint(1, 6) if number % 4 > 1 else 0
        text = torch.randint(0, words, (question + answer,), generator=generator)
        if regions:
            text[:regions] = config.region_token_id
        image = torch.full((config.image_tokens if pictured else 0,), config.image_token_id)
        ids = torch.cat([image, text])
        labels = ids.clone()
        labels[: len(image) + question] = -100
        side, grid = config.image_size, config.refined_grid
        masks = torch.zeros(regions, grid, grid)
        for mask in masks:
            top, left = chance.randint(0, grid - 4), chance.randint(0, grid - 4)
            mask[top : top + 4, left : left + 4] = 1
        made.append(
            Conversation(
                ids,
                labels,
                mentions=list(range(regions)),
                weights=masks,
                places=[0] * regions,
                pictures=[torch.randn(3, side, side, generator=generator)] if pictured else [],
            )
        )
    return made


def our_step(model: Any, optimizer: Any, packing: str, cached: dict[int, Any] | None, cuda: bool) -> Any:
    """A step of ours; `cached` are samples with tower features, by the `id` of those with pixels."""
    import torch

    from rgpt.data.collator import Collator, model_inputs

    collate = Collator(0, packing)
    device = next(model.parameters()).device

    def step(batch: list[Conversation]) -> dict[str, float]:
        clock = Clock(cuda)
        if cached is not None:
            batch = [cached[id(sample)] for sample in batch]
        inputs = model_inputs(collate(batch), device)
        clock.mark("data")
        if "pixel_values" in inputs:
            inputs["vision_features"] = model.model.vision_features(inputs.pop("pixel_values"))
        clock.mark("tower")
        loss = model(**inputs).loss
        clock.mark("forward")
        loss.backward()
        clock.mark("backward")
        optimizer.step()
        optimizer.zero_grad()
        clock.mark("optimiser")
        assert torch.isfinite(loss)
        return clock.parts

    return step


def llava_step(model: Any, optimizer: Any, dummies: bool, region_id: int, cuda: bool) -> Any:
    """A step of LLaVA: padded, with a mask; its tower runs inside forward and is taken out by hooks."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    device = next(model.parameters()).device
    tower = model.model.vision_tower
    spent = [0.0, 0.0]

    def now() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    tower.register_forward_pre_hook(lambda *_: spent.__setitem__(0, now()))
    tower.register_forward_hook(lambda *_: spent.__setitem__(1, spent[1] + now() - spent[0]))

    def step(batch: list[Conversation]) -> dict[str, float]:
        clock = Clock(cuda)
        spent[1] = 0.0
        ids = pad_sequence([example.input_ids for example in batch], batch_first=True)
        labels = pad_sequence([example.labels for example in batch], batch_first=True, padding_value=-100)
        mask = pad_sequence([torch.ones(len(example)) for example in batch], batch_first=True).long()
        # A region is one token for LLaVA too, only without a meaning.
        inputs = {"input_ids": ids.where(ids != region_id, 1), "labels": labels, "attention_mask": mask}
        pictures = [picture for example in batch for picture in example.pictures]
        extra = sum(not example.pictures for example in batch) if dummies else 0
        inputs = {key: value.to(device) for key, value in inputs.items()}
        pixels = torch.stack(pictures).to(device)
        clock.mark("data")
        if extra:
            with torch.no_grad():
                tower(
                    torch.zeros(extra, *pixels.shape[1:], device=device, dtype=next(tower.parameters()).dtype)
                )
        loss = model(**inputs, pixel_values=pixels).loss
        clock.mark("forward")
        loss.backward()
        clock.mark("backward")
        optimizer.step()
        optimizer.zero_grad()
        clock.mark("optimiser")
        clock.parts["tower"] = spent[1]
        clock.parts["forward"] -= spent[1]
        return clock.parts

    return step


def configurations(
    ours: Any, llava: Any, samples: Sequence[Conversation], cuda: bool
) -> tuple[list[Config], list[Config]]:
    """(ours, LLaVA's)."""
    import torch

    frozen = [ours.model.vision_tower, llava.model.vision_tower]
    if cuda:  # stage 1: the optimiser state of two 7B models would not fit
        frozen += [ours.model.language_model, ours.lm_head, llava.model.language_model, llava.lm_head]
    for module in frozen:
        module.requires_grad_(False)
    ours.train()  # after freezing: a frozen tower stays in eval mode
    llava.train()
    optimizers = [
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
        for model in (ours, llava)
    ]
    device, cached = next(ours.parameters()).device, {}
    with torch.no_grad():
        for example in samples:
            pixels = [picture[None].to(device) for picture in example.pictures]
            features = [ours.model.vision_features(each)[0].to(torch.bfloat16).cpu() for each in pixels]
            cached[id(example)] = replace(example, pictures=features, cached=True)

    def mine(packing: str, features: bool) -> Any:
        return our_step(ours, optimizers[0], packing, cached if features else None, cuda)

    def theirs(dummies: bool) -> Any:
        return llava_step(llava, optimizers[1], dummies, ours.config.region_token_id, cuda)

    return (
        [
            Config("rgpt, padded, pixels", mine("none", False)),
            Config("rgpt, packed, pixels", mine("rows", False)),
            Config("rgpt, padded, cached features", mine("none", True)),
            Config("rgpt, packed, cached features", mine("rows", True)),
        ],
        [
            Config("LLaVA, padded", theirs(False)),
            Config("LLaVA, padded, dummy pictures", theirs(True)),
        ],
    )


def scene_sample(seed: int, folder: Path, questions: int) -> Any:
    """A drawn scene as a `Sample`, its picture in `folder`; None where a scene holds a single thing."""
    from rgpt.data.scene_questions import MAKERS, conversation, number_objects
    from rgpt.data.scenes import draw_scene
    from rgpt.data.schema import QuestionAnswer, Sample
    from rgpt.regions import RLE

    scene = draw_scene(seed)
    if len(scene.objects) < 2:
        return None
    chance = random.Random(seed)
    numbered = number_objects(scene.scene, chance)
    picture = folder / f"{seed}.png"
    scene.image.save(picture)
    talk = conversation(numbered, chance, questions, dict.fromkeys(MAKERS, 1.0))
    regions = tuple(RLE.from_mask(scene.objects[index].mask) for index in numbered.order)
    turns = tuple(QuestionAnswer(exchange.question, exchange.answer) for exchange in talk)
    return Sample(str(seed), picture, regions, turns)


def data_share(batch: int, steps: int) -> float:
    """Share of a step spent waiting for data, in a real run of `tiny` on drawn scenes with one worker."""
    import tempfile

    from rgpt.data.schema import write_jsonl
    from rgpt.train.arguments import run_from
    from rgpt.train.record import read_log
    from rgpt.train.run import train

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = []
        for seed in range(8_100_000, 8_100_000 + 8 * batch):
            if sample := scene_sample(seed, folder, questions=4):
                samples.append(sample)
        write_jsonl(folder / "s.jsonl", samples)
        settings = {
            "stage": "tune", "model": "tiny", "skip_stage_1": True, "out": str(folder / "run"),
            "data": [{"path": str(folder / "s.jsonl")}], "batch_size": batch, "micro_batch_size": batch,
            "max_steps": steps, "precision": "fp32", "max_length": 1024, "workers": 1, "log_every": 1,
            "save_every": steps,
        }  # fmt: skip
        train(run_from(settings))
        rows = read_log(folder / "run" / "log.jsonl")
        # The first steps wait for the worker to start.
        return statistics.median(row["data_share"] for row in rows[3:] if "loss" in row)


def bench_train(options: argparse.Namespace) -> list[Figure]:
    """Every configuration, a step at a time in turn."""
    import torch
    from tqdm import tqdm

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    cuda = torch.cuda.is_available()
    models = make_models(cuda)
    samples = make_samples(models[0], options.batch * 8)
    ours, theirs = configurations(*models, samples, cuda)
    chance = random.Random(0)
    tokens: list[int] = []
    for step in tqdm(range(options.repeats + 2), desc="steps of every configuration"):
        batch = chance.sample(samples, options.batch)
        if not any(example.pictures for example in batch):
            continue
        for config in [*ours, *theirs]:
            parts = config.step(batch)
            if step >= 2:  # the first steps choose kernels and fill memory pools
                config.seconds.append(sum(parts.values()))
                config.parts.append(parts)
        if step >= 2:
            tokens.append(sum(map(len, batch)))
    figures = [*_figures(ours, theirs, tokens, options.batch), *_data_figure(options, cuda)]
    return [*figures, *_refinement_figures(models[0].device, options.repeats)]


def _figures(ours: list[Config], theirs: list[Config], tokens: list[int], batch: int) -> Iterator[Figure]:
    for config in [*ours, *theirs]:
        yield Figure(config.name, "samples/s", [batch / seconds for seconds in config.seconds])
        rates = [count / seconds for count, seconds in zip(tokens, config.seconds, strict=True)]
        yield Figure("  tokens", "tokens/s", rates)
        for part in PARTS:
            yield Figure(f"  {part}", "ms", [1000 * parts[part] for parts in config.parts])

    def ratio(mine: Config, other: Config) -> list[float]:
        return [b / a for a, b in zip(mine.seconds, other.seconds, strict=True)]

    recipe = theirs[1]
    for config in ours:
        wanted = 1.3 if config is ours[-1] else 1.0
        yield Figure(f"{config.name} / LLaVA", "x", ratio(config, theirs[0]), at_least=wanted)
        yield Figure(f"{config.name} / with dummies", "x", ratio(config, recipe), at_least=wanted)


def _data_figure(options: argparse.Namespace, cuda: bool) -> Iterator[Figure]:
    if not cuda:
        yield Figure(
            "waiting for data, tiny, 1 worker", "share", [data_share(options.batch, 16)], at_most=0.05
        )


def _refinement_figures(device: Any, repeats: int) -> Iterator[Figure]:
    """Forward and backward of the refinement at CLIP-L/336's shape, one picture, against the same layers with
    torch's own ConvTranspose2d."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from rgpt.model.feature_map import DeconvRefinement

    channels, grid = 1024, 24
    with torch.device(device):
        ours = DeconvRefinement(channels)
        usual = nn.ModuleDict(
            {n: nn.ConvTranspose2d(channels, channels, 2, 2) for n in ("deconv_1", "deconv_2")}
        )
        usual["norm"] = nn.LayerNorm(channels, eps=1e-6)
        features = torch.randn(1, channels, grid, grid)
    usual.load_state_dict(ours.state_dict())

    def plain(x: Any) -> Any:
        normed = usual["norm"](usual["deconv_1"](x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.gelu(usual["deconv_2"](F.gelu(normed)))

    seconds: dict[str, list[float]] = {"usual": [], "ours": []}
    for turn in range(repeats + 1):
        for name, refine in (("usual", plain), ("ours", ours)):
            clock = Clock(features.is_cuda)
            refine(features).sum().backward()
            clock.mark("forward")
            if turn:  # the first chooses kernels
                seconds[name].append(clock.parts["forward"])
    ratios = [a / b for a, b in zip(seconds["usual"], seconds["ours"], strict=True)]
    yield Figure("refinement, ConvTranspose2d / ours", "x", ratios)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m scripts.bench train`."""

    parser.add_argument("--steps", dest="repeats", type=int, default=12, help="steps measured (default: 12)")
    parser.add_argument("--batch", type=int, default=16, help="samples a step (default: 16)")
    add_threads(parser)
    parser.set_defaults(run=bench_train)
