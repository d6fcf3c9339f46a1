"""Floors and ceilings of the task `photographs`: what its figures are to be read beside.

    python -m eval.photo_bounds --data DIR --model M [--features CACHE] [--scores OUT/scores.json] --out FILE

The items are those of `eval.run photographs` with the same options. Floors look at nothing: the commonest
class, a constant answer, another photograph's captions. Ceilings are networks without a language model on
exactly the vectors that region tokens are made from (pooled refined features, and the region's measures where
the model adds them), trained on the training photographs. Captions have references instead of a ceiling:
the nearest photograph's caption, and the consensus of the nearest 30 (Devlin et al., 2015).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from eval.arguments import add_photographs, photographs_of
from eval.metrics.captions import caption_scores, require_java, tokenise
from eval.report import between
from eval.score import write_scores
from eval.tasks.photo_items import Draw, clear_objects, yes_no_items
from eval.tasks.photos import Figures, Photographs, groups_of_names
from rgpt.data.photo_facts import direction
from rgpt.data.photographs import Photograph, class_counts, read_photographs
from rgpt.data.scene_questions import DIRECTIONS
from rgpt.errors import InputError
from rgpt.placement import add_placement, placement
from rgpt.regions import open_image

NEIGHBOURS = 30
HIDDEN = 1024
DROPOUT = 0.3
PATIENCE = 8
EPOCHS = 100
VALIDATION = 8
"""Every so many training photographs stop the training of a ceiling early."""
PAIRS = 6
"""Pairs of regions of a training photograph that the ceiling of relations learns from."""


@dataclass
class Vectors:
    """What the model's region tokens are made from, of every object and photograph by its id.

    regions: `[C]` each, or `[C + 5]` where the model adds the region's measures.
    pictures: `[C]` each, the mean of the tower's map.
    """

    regions: dict[int, Tensor] = field(default_factory=dict)
    pictures: dict[int, Tensor] = field(default_factory=dict)

    def of(self, ids: Sequence[int]) -> Tensor:
        return torch.stack([self.regions[i] for i in ids])


@torch.inference_mode()
def read_vectors(
    photographs: Sequence[Photograph], model: Any, processor: Any, features: Any, draw: Draw
) -> Vectors:
    """The vectors of all objects that are no crowds; `features` is a `FeatureCache` or None.

    Pictures that the cache lacks go through the tower. Raises InputError for a picture that cannot be read.
    """
    from rgpt.model.geometry import region_measures
    from rgpt.model.projection import pool_regions

    found = Vectors()
    grid = model.config.refined_grid
    for photograph in tqdm(photographs, desc="vectors", unit="picture"):
        tower = tower_map(photograph, model, processor, features)
        found.pictures[photograph.id] = tower.flatten(2).mean(-1)[0].float()
        if not photograph.singles:
            continue
        weights = object_weights(photograph, draw, grid)
        refined = model.model.encode(vision_features=tower)
        pooled = pool_regions(refined, weights[None].to(refined.device))[0].float().cpu()
        if getattr(model.config, "region_geometry", False):
            pooled = torch.cat([pooled, region_measures(weights[None])[0]], dim=-1)
        found.regions |= {item.id: row for item, row in zip(photograph.singles, pooled, strict=True)}
    return found


def object_weights(photograph: Photograph, draw: Draw, grid: int) -> Tensor:
    """Area shares `[R, G, G]` of the objects that are no crowds; at least one. Raises InputError."""
    from rgpt.regions import region_weights

    size = photograph.height, photograph.width
    return torch.from_numpy(
        np.stack([region_weights(draw.region(item), *size, grid) for item in photograph.singles])
    )


def open_features(folder: Path | None, model: Any, processor: Any) -> Any:
    """The `FeatureCache` in `folder`, or None for None. Raises InputError for one of another tower."""
    if folder is None:
        return None
    from rgpt.train.feature_cache import FeatureCache, fingerprint

    features = FeatureCache(folder)
    features.check(fingerprint(model.model.vision_tower, model.config, processor))
    return features


def tower_map(photograph: Photograph, model: Any, processor: Any, features: Any) -> Tensor:
    """`[1, C, h, w]` of the cache, else of the tower."""
    if features is not None:
        try:
            return features.get(str(photograph.path))[0][None].to(model.device, model.dtype)
        except InputError:
            pass  # not cached, as pictures are that no training takes
    pixels = processor.pixel_values([open_image(photograph.path)])
    found: Tensor = model.model.vision_features(pixels.to(model.device, model.dtype))
    return found


# ---------------------------------------------------------------------------------------------- ceilings


def fit(x: Tensor, y: Tensor, held: Tensor, classes: int, seed: int) -> Callable[[Tensor], Tensor]:
    """A network with one hidden layer, stopped where it is best on the rows `held`.

    Args:
        x: `[N, C]` vectors. y: `[N]` classes. held: `[N]` bool, rows that only stop the training.

    Returns:
        a function from `[n, C]` to log-probabilities `[n, classes]`.
    """
    generator = torch.Generator().manual_seed(seed)
    mean, std = x[~held].mean(0), x[~held].std(0).clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(x.shape[1], HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, classes)
        )
        x_train, y_train, x_held, y_held = (x[~held] - mean) / std, y[~held], (x[held] - mean) / std, y[held]
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
        best, kept, waited = math.inf, network.state_dict(), 0
        for _ in range(EPOCHS):
            network.train()
            for rows in torch.randperm(len(x_train), generator=generator).split(256):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(x_train[rows]), y_train[rows]).backward()
                optimizer.step()
            network.eval()
            with torch.no_grad():
                loss = float(nn.functional.cross_entropy(network(x_held), y_held))
            if loss < best:
                best, waited = loss, 0
                kept = {name: value.clone() for name, value in network.state_dict().items()}
            elif (waited := waited + 1) >= PATIENCE:
                break
        network.load_state_dict(kept)

    def predict(rows: Tensor) -> Tensor:
        with torch.no_grad():
            return network.eval()((rows - mean) / std).log_softmax(-1)

    return predict


@dataclass
class Learned:
    """Ceilings of several seeds: names of objects, and directions of pairs; all by id."""

    names: list[str]
    vectors: Vectors
    namers: list[Callable[[Tensor], Tensor]]
    pointers: list[Callable[[Tensor], Tensor]]
    thresholds: list[float]
    """Of log p(class) above which each namer says yes."""

    def log_shares(self, seed: int, ids: Sequence[int]) -> Tensor:
        """`[len(ids), names]`"""
        return self.namers[seed](self.vectors.of(ids))

    def log_share(self, seed: int, annotation: int, name: str) -> float:
        return float(self.log_shares(seed, [annotation])[0, self.names.index(name)])


def learn(
    photographs: Sequence[Photograph], names: list[str], vectors: Vectors, draw: Draw, seeds: int
) -> Learned:
    """Train the ceilings on training photographs."""
    stopping = {photograph.id for photograph in photographs[::VALIDATION]}
    objects = [(p.id in stopping, o.id, names.index(o.name)) for p in photographs for o in p.singles]
    rng = random.Random(f"{draw.seed} pairs")
    pairs = []
    for photograph in photographs:
        clear = clear_objects(photograph)
        known = [
            (photograph.id in stopping, a.id, b.id, DIRECTIONS.index(where))
            for a in clear
            for b in clear
            if a is not b and (where := direction(photograph, a.box, b.box))
        ]
        pairs += rng.sample(known, min(PAIRS, len(known)))
    for what, rows in (("objects", objects), ("pairs of objects", pairs)):
        if len({row[0] for row in rows}) < 2:
            raise InputError.about(
                f"{what} to train the ceilings with",
                f"some in more than {VALIDATION} training photographs",
                f"{len(rows)} in {len(photographs)}",
                "name a folder of more photographs with --train",
            )
    x, y = vectors.of([o[1] for o in objects]), torch.tensor([o[2] for o in objects])
    held = torch.tensor([o[0] for o in objects])
    xx = torch.cat([vectors.of([p[side] for p in pairs]) for side in (1, 2)], dim=1)
    yy, hheld = torch.tensor([p[3] for p in pairs]), torch.tensor([p[0] for p in pairs])
    found = Learned(names, vectors, [], [], [])
    for seed in tqdm(range(seeds), desc="ceilings", unit="seed"):
        found.namers.append(fit(x, y, held, len(names), seed))
        found.pointers.append(fit(xx, yy, hheld, len(DIRECTIONS), seed))
    asked = [item for _, item in yes_no_items([p for p in photographs if p.id in stopping], draw)]
    for seed in range(seeds):
        values = [
            (found.log_share(seed, i.details["annotation"], i.details["name"]), bool(i.details["yes"]))
            for i in asked
        ]
        found.thresholds.append(best_threshold(values))
    return found


def best_threshold(values: Sequence[tuple[float, bool]]) -> float:
    """The threshold above which most are true and below which most are false; log(1/2) without any."""
    if not values:
        return math.log(0.5)
    ordered = sorted(values)
    right = sum(truth for _, truth in ordered)  # all above
    best, threshold = right, ordered[0][0] - 1.0
    for k, (value, truth) in enumerate(ordered):
        right += -1 if truth else 1
        following = ordered[k + 1][0] if k + 1 < len(ordered) else value + 2.0
        if right > best and following > value:
            best, threshold = right, (value + following) / 2
    return threshold


# ------------------------------------------------------------------------------------------------ figures


class Bounds:
    """Floors and ceilings by the figure's name in `eval.run photographs`."""

    def __init__(self) -> None:
        self.floor, self.ceiling = Figures(), Figures()

    def add(
        self,
        figure: str,
        rows: Sequence[Mapping[str, Any]],
        floor: Callable[[Mapping[str, Any]], float],
        ceiling: Callable[[Mapping[str, Any]], float],
    ) -> None:
        if rows:
            self.floor.add_values(figure, rows, [float(floor(row)) for row in rows])
            self.ceiling.add_values(figure, rows, [float(ceiling(row)) for row in rows])


def rows_of(task: Photographs, kind: str) -> list[dict[str, Any]]:
    return [
        {"id": item.id, "image_id": photograph, "truth": item.truth, **item.details}
        for photograph, own in task.items.items()
        for item in own
        if item.details["kind"] == kind
    ]


def bound_names(
    bounds: Bounds, rows: Sequence[Mapping[str, Any]], learned: Learned, counts: Counter[str]
) -> None:
    """Floor: the commonest training class (without persons, the next). Ceiling: the mean of the seeds."""
    if not rows:
        return
    said = [
        [learned.names[k] for k in learned.log_shares(seed, [r["annotation"] for r in rows]).argmax(-1)]
        for seed in range(len(learned.namers))
    ]
    right = {row["id"]: sum(own[k] == row["truth"] for own in said) / len(said) for k, row in enumerate(rows)}
    for suffix, group in groups_of_names(rows).items():
        banned = {"person"} if suffix == "_not_person" else set()
        common = max((n for n in sorted(counts) if n not in banned), key=lambda n: counts[n], default=None)
        for form in ("names", "names_generated"):
            bounds.add(
                form + suffix,
                group,
                lambda row, common=common: row["truth"] == common,
                lambda row: right[row["id"]],
            )


def bound_questions(bounds: Bounds, task: Photographs, learned: Learned) -> None:
    """Yes/no: the best answers by class alone, against the class's share with a threshold. Which: a guess,
    against the region of the largest share. Relations: the commonest direction, against a network on both
    vectors.
    """
    seeds = range(len(learned.namers))
    rows = rows_of(task, "yes_no")
    truths: dict[str, list[bool]] = {}
    for row in rows:
        truths.setdefault(row["name"], []).append(row["yes"])
    constant = {name: 2 * sum(yes) >= len(yes) for name, yes in truths.items()}

    def likely(row: Mapping[str, Any]) -> float:
        shares = [learned.log_share(seed, row["annotation"], row["name"]) for seed in seeds]
        said = [share > learned.thresholds[seed] for seed, share in enumerate(shares)]
        return sum(one == row["yes"] for one in said) / len(said)

    bounds.add("yes_no", rows, lambda row: constant[row["name"]] == row["yes"], likely)

    def found(row: Mapping[str, Any]) -> float:
        column = learned.names.index(row["name"])
        best = [int(learned.log_shares(seed, row["annotations"])[:, column].argmax()) + 1 for seed in seeds]
        return sum(one == row["number"] for one in best) / len(best)

    bounds.add("which", rows_of(task, "which"), lambda row: 1 / len(row["annotations"]), found)
    rows = rows_of(task, "relation")
    if rows:
        common = Counter(row["direction"] for row in rows).most_common(1)[0][0]

        def pointed(row: Mapping[str, Any]) -> float:
            pair = learned.vectors.of(row["annotations"]).flatten()[None]
            said = [DIRECTIONS[int(learned.pointers[seed](pair).argmax())] for seed in seeds]
            return sum(one == row["direction"] for one in said) / len(said)

        bounds.add("relation", rows, lambda row: row["direction"] == common, pointed)


# ----------------------------------------------------------------------------------------------- captions


def consensus(tokenised: Sequence[Sequence[str]], idf: Mapping[tuple[str, ...], float]) -> int:
    """Of the captions of neighbours (outer: photographs), the place in the flat list of the one that is most
    like the others'. Likeness is CIDEr's: the mean cosine of tf-idf weighted n-grams, n = 1 to 4.
    """
    flat = [_weigh(caption, idf) for own in tokenised for caption in own]
    owner = [k for k, own in enumerate(tokenised) for _ in own]
    value = np.zeros(len(flat))
    for n in range(4):
        total: Counter[tuple[str, ...]] = Counter()
        each: list[Counter[tuple[str, ...]]] = [Counter() for _ in tokenised]
        for k, caption in enumerate(flat):
            for gram, weight in caption[n].items():
                total[gram] += weight  # type: ignore[assignment]
                each[owner[k]][gram] += weight  # type: ignore[assignment]
        for k, caption in enumerate(flat):  # others: not those of the same photograph
            value[k] += sum(w * (total[g] - each[owner[k]][g]) for g, w in caption[n].items())
    return int(value.argmax())


def _weigh(caption: str, idf: Mapping[tuple[str, ...], float]) -> list[dict[tuple[str, ...], float]]:
    """Unit tf-idf vectors of the n-grams of a tokenised caption, one for each n."""
    words, found = caption.split(), []
    unseen = max(idf.values(), default=1.0)
    for n in range(1, 5):
        counts = Counter(tuple(words[k : k + n]) for k in range(len(words) - n + 1))
        vector = {gram: count * idf.get(gram, unseen) for gram, count in counts.items()}
        norm = math.sqrt(sum(value**2 for value in vector.values())) or 1.0
        found.append({gram: value / norm for gram, value in vector.items()})
    return found


def inverse_frequencies(tokenised: Sequence[Sequence[str]]) -> dict[tuple[str, ...], float]:
    """CIDEr's idf: log of photographs over photographs whose captions hold the n-gram."""
    counts: Counter[tuple[str, ...]] = Counter()
    for own in tokenised:
        counts.update(
            {
                tuple(words[k : k + n])
                for words in map(str.split, own)
                for n in range(1, 5)
                for k in range(len(words) - n + 1)
            }
        )
    return {gram: math.log(len(tokenised) / count) for gram, count in counts.items()}


def bound_captions(
    rows: Sequence[Mapping[str, Any]], train: Sequence[Photograph], vectors: Vectors, seed: int
) -> dict[str, Figures]:
    """METEOR and CIDEr of captions that are copied: of another held-out photograph (`shuffled`), of the
    nearest training photograph (`nearest`: its first caption), and of the 30 nearest (`consensus`). Nearness
    is the cosine of the tower's mean features.
    """
    captioned = [photograph for photograph in train if photograph.captions]
    if len(captioned) < 2 or len(rows) < 2:
        return {}
    known = nn.functional.normalize(torch.stack([vectors.pictures[p.id] for p in captioned]), dim=-1)
    asked = nn.functional.normalize(torch.stack([vectors.pictures[r["image_id"]] for r in rows]), dim=-1)
    order = (asked @ known.T).topk(min(NEIGHBOURS, len(captioned)), dim=-1).indices.tolist()
    tokens = tokenise({p.id: p.captions for p in captioned})
    idf = inverse_frequencies(list(tokens.values()))
    copied: dict[str, dict[str, str]] = {"shuffled": {}, "nearest": {}, "consensus": {}}
    shift = random.Random(f"{seed} shuffled").randrange(1, len(rows))
    for k, (row, near) in enumerate(zip(rows, order, strict=True)):
        copied["shuffled"][row["id"]] = rows[(k + shift) % len(rows)]["captions"][0]
        copied["nearest"][row["id"]] = captioned[near[0]].captions[0]
        said = [caption for k in near for caption in captioned[k].captions]
        copied["consensus"][row["id"]] = said[consensus([tokens[captioned[k].id] for k in near], idf)]
    expected = {row["id"]: row["captions"] for row in rows}
    found = {}
    for name, hypotheses in copied.items():
        scores, each = caption_scores(expected, hypotheses)
        found[name] = Figures()
        for figure in ("CIDEr", "METEOR"):
            values = [each[row["id"]][figure] for row in rows]
            found[name].add_values(figure, rows, values, scores[figure])
    return found


# ------------------------------------------------------------------------------------------------ command


def compute(args: argparse.Namespace) -> dict[str, Any]:
    """All bounds. Raises InputError, before the model is opened where data or options are wrong."""
    from rgpt.model import load

    task = photographs_of(args)
    task.pictures()
    if "caption" in task.draw.kinds:
        require_java()
    asked = {photograph.id for photograph in task.photographs}
    train = [p for p in read_photographs(args.train or args.data, "train") if p.id not in asked]
    train = train[: args.train_limit]
    names = list(dict.fromkeys([*task.names, *sorted(class_counts(train))]))
    torch.set_num_threads(args.threads)
    model, processor = load(args.model, **placement(args))
    features = open_features(args.features, model, processor)
    vectors = read_vectors([*train, *task.photographs], model, processor, features, task.draw)
    learned = learn(train, names, vectors, task.draw, args.seeds)
    bounds = Bounds()
    bound_names(bounds, rows_of(task, "name"), learned, class_counts(train))
    bound_questions(bounds, task, learned)
    copied = bound_captions(rows_of(task, "caption"), train, vectors, args.seed)
    return {
        "floors": bounds.floor.scores,
        "ceilings": bounds.ceiling.scores,
        "intervals": {
            "floors": bounds.floor.intervals,
            "ceilings": bounds.ceiling.intervals,
            **{name: figures.intervals for name, figures in copied.items()},
        },
        "captions": {name: figures.scores for name, figures in copied.items()},
        "photographs": len(task.photographs),
        "training_photographs": len(train),
        "vector": next(iter(vectors.regions.values())).shape[0],
        "seeds": args.seeds,
        "model": args.model,
        "args": {key: str(value) for key, value in sorted(vars(args).items()) if value is not None},
    }


def table(bounds: Mapping[str, Any], scores: Mapping[str, Any] | None = None) -> str:
    """Floor, model (of `scores`, a result of `eval.run photographs`) and ceiling of every figure.

    Raises:
        InputError: the scores are of other items.
    """
    floors, ceilings, intervals = bounds["floors"], bounds["ceilings"], bounds["intervals"]
    lines = [f"{'':<30}{'floor':>8}{'model':>8}{'ceiling':>9}{'of it':>7}{'n':>7}  interval of the ceiling"]

    def line(name: str, floor: Any, ceiling: Any, n: int, interval: str) -> str:
        value = None if scores is None else scores.get(name)
        if scores is not None and value is not None and scores[f"n_{name}"] != n:
            raise InputError.about(
                f"scores of {name}",
                f"the {n} items of these bounds",
                f"{scores[f'n_{name}']}",
                "give eval.run and eval.photo_bounds the same options",
            )
        share = value / ceiling if value is not None and ceiling else None
        cells = [
            f"{'–' if v is None else f'{v:.3f}':>{w}}"
            for v, w in ((floor, 8), (value, 8), (ceiling, 9), (share, 7))
        ]
        return f"{name:<30}{''.join(cells)}{n:>7}{interval}"

    for name in [k for k in ceilings if not k.startswith("n_")]:
        n = ceilings[f"n_{name}"]
        interval = between({"intervals": intervals["ceilings"]}, name)
        lines.append(line(name, floors[name], ceilings[name], n, interval))
    if copied := bounds["captions"]:
        for figure in ("CIDEr", "METEOR"):
            n = copied["shuffled"][f"n_{figure}"]
            lines.append(line(figure, copied["shuffled"][figure], None, n, ""))
            for name in ("nearest", "consensus"):
                interval = between({"intervals": intervals[name]}, figure)
                label = f"  {figure}, {name}"
                lines.append(f"{label:<30}{'':16}{copied[name][figure]:>9.3f}{'':7}{n:>7}{interval}")
    lines.append(
        f"{bounds['photographs']} photographs; ceilings: {bounds['seeds']} networks on vectors of "
        f"{bounds['vector']} from {bounds['training_photographs']} training photographs"
    )
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.photo_bounds", description="Floors and ceilings of eval.run photographs."
    )
    add_photographs(parser)
    parser.add_argument("--model", default="tiny", metavar="M", help="whose region vectors to use")
    parser.add_argument(
        "--features", type=Path, metavar="CACHE", help="of rgpt cache-features; spares the tower"
    )
    parser.add_argument("--train", type=Path, metavar="DIR", help="training photographs (default: --data's)")
    parser.add_argument("--train-limit", type=int, metavar="N", help="only the first N training photographs")
    parser.add_argument("--seeds", type=int, default=3, help="networks of each ceiling (default: 3)")
    parser.add_argument(
        "--scores", type=Path, metavar="FILE", help="scores.json of eval.run, to show between"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all as JSON")
    parser.add_argument("--seed", type=int, default=0, help="as of eval.run")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N photographs")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    add_placement(parser)
    parser.set_defaults(batch_size=32)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        scores = None if args.scores is None else json.loads(args.scores.read_text(encoding="utf-8"))
        if args.out is not None:
            args.out.resolve().parent.mkdir(parents=True, exist_ok=True)  # before the work
        bounds = compute(args)
        if args.out is not None:
            write_scores(args.out, bounds)
        print(table(bounds, scores))
    except (InputError, OSError, ValueError) as problem:
        print(f"eval: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
