"""One stage of training, from a YAML file to a folder with weights.

    torchrun --nproc_per_node N -m rgpt.train.run RUN.yaml [key=value ...] [--resume] [--check] [--stage S]

`scripts/pretrain.sh` and `scripts/finetune.sh` are this with the processes counted. The folder `out` gets
run.yaml and versions.json at once, log.jsonl, answers.jsonl, tensorboard/ and checkpoints/ on the way, and at
the end curve.png and `model/` (or `adapter/`, or `delta/`), which is there whole or not at all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rgpt.errors import InputError
from rgpt.files import LEFT_OVER, sole_writer, write_json, write_text
from rgpt.train import checkpoints, record
from rgpt.train.arguments import MOST, DataFile, HeldOut, Run, check_files, read_run, refuse_other_run
from rgpt.train.environment import check_environment, deepspeed_config, launched
from rgpt.train.inputs import FILE as INPUTS
from rgpt.train.inputs import PROVENANCE, check_out
from rgpt.train.leaving import Left, command_to_continue, leaving
from rgpt.train.model_card import model_card

if TYPE_CHECKING:
    from rgpt.data.dataset import TrainingSet
    from rgpt.data.mixture import Mixture
    from rgpt.data.sample_files import SampleFile


def train(run: Run, resume: bool = False, accept_changed_data: bool = False) -> Path:
    """Train as `run` says; returns the folder of the result. Every process of a launch calls this.

    Args:
        resume: go on with the run in `out`; where there is none, begin, and say so.
        accept_changed_data: go on although data, base or DeepSpeed settings are no longer what they were.

    Raises:
        InputError: before any training, for whatever cannot work; later, for whatever ends it.
        Left: it was asked to leave, and has saved a checkpoint.
    """
    rank, processes = launched()
    check_run(run, processes)
    result = Path(run.out) / ("adapter" if run.method != "full" else "delta" if run.delta else "model")
    if rank == 0:  # it alone looks and writes: another rank could take what it writes for an older run
        check_folder(run, resume, result)
    from rgpt.train.endings import one_sentence  # imports torch

    with contextlib.ExitStack() as held:
        held.enter_context(one_sentence(Path(run.out)))
        if not resume or not result.is_dir():
            train_to(run, result, Continuation(resume, accept_changed_data), rank, processes, held)
        elif rank == 0:
            check_finished(run, result)
    return result


def check_finished(run: Run, result: Path) -> None:
    """Raises InputError when a finished run was made from something else than its files hold now."""
    from rgpt.train.inputs import changes, inputs_of, read_inputs

    if found := changes(read_inputs(result) or {}, inputs_of(run)):
        raise InputError.about(
            f"--resume of {run.out}, which is finished",
            "what it was made from",
            f"changed: {', '.join(found)}",
            "name another out for a new run",
        )
    print(f"--resume: the run in {run.out} is finished; nothing was left to do", flush=True)


def train_to(
    run: Run, result: Path, going_on: Continuation, rank: int, processes: int, held: contextlib.ExitStack
) -> None:
    """What `train` does where there is something to do."""
    import torch

    from rgpt.data.collator import Collator
    from rgpt.data.mixture import MicroBatches, Mixture
    from rgpt.train.endings import gathered, last_checkpoint, refuse_ranks_that_differ
    from rgpt.train.progress import Record
    from rgpt.train.trainer import RegionTrainer, summary

    out = Path(run.out)
    random.seed(run.seed)
    torch.manual_seed(run.seed)

    files = [open_file(item, run, rank) for item in run.data]
    # Made once more when the model is there: what it refuses is refused before there is a folder.
    Mixture([len(file) for file in files], [item.weight for item in run.data], run.batch_size, run.seed)
    held_out_file = None if run.held_out is None else open_file(run.held_out, run, rank)
    checkpoint = open_folder(run, going_on, result, processes, held) if rank == 0 else None
    model, tower, processor = open_model(run)
    rows, held_out = training_set(run, files, held_out_file, processor, model, tower)
    mixture = mix(run, files, processor.image_tokens)
    steps = run.max_steps or math.ceil(min(run.epochs * mixture.batches_per_epoch, MOST + 1))
    if steps > MOST:
        raise InputError.about("epochs", f"at most {MOST:,} steps", f"{run.epochs:g} epochs", "lower it")
    batches = MicroBatches(mixture, steps, run.micro_batch_size, rank, processes)
    collator = Collator(processor.tokenizer.pad_token_id or 0, run.packing)
    usable = [] if held_out is None else usable_rows(run, held_out, rank)
    if rank == 0:
        say(run, mixture, steps, processes, model, tower)
        if held_out_file is not None:
            say_shared(files, held_out_file)
        say_endless(model, rows)

    arguments = hf_arguments(run, steps, processes, batches.accumulation)  # now ranks can speak to each other
    refuse_ranks_that_differ({"run.yaml": run.to_yaml(), **{str(f.path): f.sha256 for f in files}})
    checkpoint = gathered([checkpoint])[0]
    shown = callbacks(run, out)
    for each in shown:
        if isinstance(each, Record):
            held.callback(each.close)
    trainer = RegionTrainer(model, run, arguments, rows, batches, collator, tower, held_out, usable, shown)
    if checkpoint is not None:
        trainer.go_on_from(checkpoint)
    with leaving.deferred(run.leave_seconds, lambda: last_checkpoint(out)):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.finish()
        save_result(trainer, result)
    if rank == 0:
        passed_over = sum("nonfinite" in row for row in record.read_log(out / "log.jsonl"))
        if passed_over:
            print(f"{passed_over} steps were passed over: loss or gradient was not finite")
        listed = f"; they are in {out}/bad_samples.*.jsonl" if any(out.glob("bad_samples.*.jsonl")) else ""
        print(f"{summary(trainer.totals)}{listed}", flush=True)


# ------------------------------------------------------------------------------------------------ the folder


class Continuation(NamedTuple):
    """Whether a run is to go on, and whether from other data."""

    resume: bool = False
    accept_changed_data: bool = False


def check_run(run: Run, processes: int) -> None:
    """Refuse what cannot work before anything is loaded. Raises InputError."""
    check_files(run, processes)
    check_environment(run, processes)
    deepspeed_config(run, processes)


def check_folder(run: Run, resume: bool, result: Path | None = None) -> None:
    """Raises InputError when `out` cannot be written, or holds a run that this is not the continuation of, or
    something else."""
    out = Path(run.out)
    if not check_out(out, resume):
        return
    refuse_other_run(run, out / "run.yaml")
    if result is not None and result.exists():
        if not (result / "run.yaml").is_file():
            raise InputError.about(
                str(result), "nothing, or what this run wrote", "something else", "move it away"
            )
        refuse_other_run(run, result / "run.yaml")


def open_folder(
    run: Run, going_on: Continuation, result: Path, processes: int, held: contextlib.ExitStack
) -> Path | None:
    """Make `out`, or find the checkpoint to continue from; while `held` is open, nobody else writes there.

    For rank 0 alone. Raises InputError.
    """
    from rgpt.train.inputs import compare_inputs, inputs_of, record_inputs

    out = Path(run.out)
    inputs = inputs_of(run)
    out.mkdir(parents=True, exist_ok=True)
    held.enter_context(sole_writer(out))
    check_folder(run, going_on.resume, result)
    for path in out.glob(LEFT_OVER):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    checkpoints.remove_leftovers(out / "checkpoints")
    if not (out / "run.yaml").is_file():
        if going_on.resume:
            print(f"--resume: {out} holds no run yet; this one begins at its first step", flush=True)
        write_json(out / "versions.json", record.versions())
        record_inputs(out, inputs)
        write_text(out / "run.yaml", run.to_yaml())
        (out / "checkpoints").mkdir(exist_ok=True)
        return None
    changed = compare_inputs(out, inputs, going_on.accept_changed_data)
    checkpoint = checkpoints.newest(out / "checkpoints", processes)
    step = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
    print(
        f"--resume: going on after step {step}, from {checkpoint.name}"
        if checkpoint
        else f"--resume: {out} holds no whole checkpoint; its run begins again at the first step",
        flush=True,
    )
    settings = run.to_yaml()
    facts = {"step": step, "settings": settings, "versions": record.versions(), "changed": changed}
    record.append(out / "resumes.jsonl", facts)
    write_text(out / "run.yaml", settings)
    return checkpoint


def save_result(trainer: Any, result: Path) -> None:
    """The weights, with where they come from and a model card beside them, under their name in one step."""
    from rgpt.train.trainer import BEST, summary

    def add_provenance(partial: Path) -> None:
        for name in PROVENANCE:
            shutil.copyfile(result.parent / name, partial / name)
        inputs = json.loads((partial / INPUTS).read_text(encoding="utf-8"))
        rows = record.read_log(result.parent / "log.jsonl")
        card = model_card(trainer.run, inputs, rows, summary(trainer.totals), trainer.best)
        write_text(partial / "README.md", card)

    trainer.save_whole(result, add_provenance)
    if trainer.is_world_process_zero():
        shutil.rmtree(result.parent / BEST, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ the parts


def open_file(item: DataFile | HeldOut, run: Run, rank: int) -> SampleFile:
    from rgpt.data.sample_files import SampleFile

    keep_bad = run.on_bad_sample == "skip"
    return SampleFile(item.path, item.kind, item.images, progress=rank == 0, keep_bad=keep_bad)


def open_model(run: Run) -> tuple[Any, Any, Any]:
    """(model with only what the stage trains trainable, its hidden tower, processor)."""
    import torch

    from rgpt.model import load
    from rgpt.train.adapters import add_adapters, quantization
    from rgpt.train.endings import not_finite
    from rgpt.train.hidden_tower import hide_tower
    from rgpt.train.name_loss import start_among_words
    from rgpt.train.stages import apply_stage

    # DeepSpeed keeps full-precision copies of what it trains; without it, AMP needs the weights themselves.
    half = run.precision == "bf16" and run.deepspeed is not None
    options: dict[str, Any] = {"dtype": torch.bfloat16 if half else torch.float32, "device": "cpu"}
    if run.attention:
        options["attn_implementation"] = run.attention
    if run.method == "qlora":
        options["quantization_config"] = quantization(run.precision)
        options["device"] = None
        options["device_map"] = {
            "": int(os.environ.get("LOCAL_RANK", 0)) if torch.cuda.is_available() else "cpu"
        }
    # Loaded before DeepSpeed is told of: it would shard the tower too.
    model: Any
    model, processor = load(run.model, **options)
    if (name := not_finite(model.named_parameters())) is not None:
        raise InputError.about(
            f"model {run.model!r}", "finite weights", f"NaN or infinity in {name}", "use another"
        )
    tower = hide_tower(model)
    if run.gradient_checkpointing:
        model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    if run.objective == "names":
        start_among_words(model)
    if run.method == "full":
        apply_stage(model, run.stage)
    else:
        model = add_adapters(model, run.lora)
    return model, tower, processor


def training_set(
    run: Run,
    files: Sequence[SampleFile],
    held_out: SampleFile | None,
    processor: Any,
    model: Any,
    tower: Any,
) -> tuple[TrainingSet, TrainingSet | None]:
    """What is trained on, and what is held out."""
    from rgpt.data.dataset import TrainingSet
    from rgpt.train.feature_cache import FeatureCache, fingerprint

    features = None
    if run.features is not None:
        features = FeatureCache(Path(run.features))
        features.check(fingerprint(tower.tower, model.config, processor))
    settings: dict[str, Any] = {
        "seed": run.seed,
        "max_length": run.max_length,
        "truncation": run.truncation,
        "chat_template": run.chat_template,
    }
    rows = TrainingSet(files, processor, region_form=run.region_form, features=features, **settings)
    return rows, None if held_out is None else TrainingSet([held_out], processor, **settings)


def usable_rows(run: Run, held_out: TrainingSet, rank: int = 0) -> list[int]:
    """The held-out samples that are asked for and can be used, as row numbers.

    Raises:
        InputError: one cannot and bad samples are not to be skipped, or none can.
    """
    from rgpt.data.dataset import BadSample
    from rgpt.data.mixture import Draw
    from rgpt.train.evaluation import spread

    assert run.held_out is not None
    count = len(held_out.files[0])
    wanted = {*range(min(run.held_out.samples, count)), *spread(count, run.held_out.answers, run.seed)}
    usable, bad = list[int](), list[int]()
    for row in sorted(wanted):
        item = held_out[Draw(0, row)]
        (bad if isinstance(item, BadSample) else usable).append(row)
        if isinstance(item, BadSample) and run.on_bad_sample == "stop":
            raise InputError(f"held_out: {item.id}: {item.reason}")
    if not any(row < run.held_out.samples for row in usable):
        raise InputError("none of the held-out samples can be used: check their pictures and lengths.")
    if bad and rank == 0:
        print(f"{len(bad)} of {len(wanted)} held-out samples cannot be used and are left out", flush=True)
    return usable


def mix(run: Run, files: Sequence[SampleFile], image_tokens: int) -> Mixture:
    from rgpt.data.mixture import Mixture

    lengths = None
    if run.group_by_length:
        # About four letters a token; exact lengths are not needed to put like to like.
        lengths = [file.characters // 4 + image_tokens * file.has_picture for file in files]
    return Mixture(
        [len(file) for file in files], [item.weight for item in run.data], run.batch_size, run.seed, lengths
    )


def hf_arguments(run: Run, steps: int, processes: int, accumulation: int) -> Any:
    """Hugging Face's arguments; made after the model is loaded, because they announce ZeRO-3 to everyone."""
    import torch
    from transformers import TrainingArguments

    from rgpt.train.progress import trackers

    os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(run.out) / "tensorboard")
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(Path(run.out) / "checkpoints"),
        run_name=Path(run.out).name,
        per_device_train_batch_size=run.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=run.lr,
        lr_scheduler_type="cosine",
        warmup_steps=min(math.ceil(run.warmup * steps), steps - 1),  # whose first step has the rate 0
        max_grad_norm=run.max_grad_norm,
        bf16=run.precision == "bf16",
        use_cpu=not cuda,
        deepspeed=deepspeed_config(run, processes),
        ddp_find_unused_parameters=False,
        logging_steps=run.log_every,
        logging_nan_inf_filter=False,
        save_steps=run.save_every,
        eval_strategy="no" if run.held_out is None else "steps",
        eval_steps=None if run.held_out is None else run.held_out.every,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=trackers(),
        disable_tqdm=True,
        log_level="error",
        seed=run.seed,
    )
    # Where a run is not bf16, the library would ask the environment.
    arguments.mixed_precision = "bf16" if run.precision == "bf16" else "no"
    return arguments


def callbacks(run: Run, out: Path) -> list[Any]:
    from rgpt.train.progress import Record

    return [Record(out, f"stage {run.stage}, {run.method}")]


def say(run: Run, mixture: Mixture, steps: int, processes: int, model: Any, tower: Any) -> None:
    """The plan, on stdout: data, steps, and what trains at which rate."""
    from rgpt.train.groups import parameter_groups, rate_table

    for item, size in zip(run.data, mixture.sizes, strict=True):
        print(f"{item.path}: {size:,} samples, {round(size * item.weight):,} an epoch")
    left_out = mixture.samples_per_epoch - mixture.batches_per_epoch * mixture.batch_size
    print(
        f"{steps:,} steps of {run.batch_size} samples = {processes} processes x {run.micro_batch_size} x "
        f"{run.accumulation(processes)} micro-batches; {mixture.batches_per_epoch:,} steps an epoch"
        + (f", which leaves {left_out} samples out" if left_out else "")
    )
    if model.about.only_drawn and any(map(may_be_photographs, run.data)):
        print(
            f"warning: {run.model} has never seen a photograph; if these pictures are photographs, start "
            "from a model that has (photo, or one of rgpt assemble)"
        )
    groups = parameter_groups(model, run.lr, run.connector_lr, run.weight_decay)
    hidden = sum(p.numel() for p in tower.parameters())
    print(rate_table(model, groups, hidden, f"stage {run.stage}"), flush=True)


def say_shared(files: Sequence[SampleFile], held_out: SampleFile) -> None:
    """Warn of held-out samples that are trained on: the same picture, by its path, and the same text."""
    import numpy as np

    shared = int(np.isin(held_out.keys, np.concatenate([file.keys for file in files])).sum())
    if shared:
        print(
            f"warning: {shared} of {len(held_out)} samples in {held_out.path} are trained on too: their loss "
            "does not say what the model makes of new ones"
        )


def say_endless(model: Any, rows: TrainingSet) -> None:
    """Warn when answers are not taught to end: a chat with the result would go on and on."""
    from rgpt.data.dataset import BadSample
    from rgpt.data.mixture import Draw
    from rgpt.model.conversation import IGNORED

    ends = model.generation_config.eos_token_id
    ends = rows.processor.tokenizer.eos_token_id if ends is None else ends
    items = (rows[Draw(0, row)] for row in range(min(len(rows.files[0]), 8)))
    item = next((item for item in items if not isinstance(item, BadSample) and not item.cut), None)
    if item is None:
        return
    labels = item.labels[item.labels != IGNORED].tolist()
    listed = ends if isinstance(ends, list) else [ends]
    if not set(labels) & set(listed):
        print(
            "warning: no answer ends with a learned token that ends generation "
            f"({', '.join(map(str, listed))}): the trained model may not know where to stop; close the "
            "assistant's turn within {% generation %} of the chat template"
        )


def may_be_photographs(item: DataFile) -> bool:
    """Whether nothing says that the samples' pictures were drawn, as the recipe `shapes` does beside them."""
    try:
        return json.loads(Path(item.path).with_name("report.json").read_text("utf-8"))["recipe"] != "shapes"
    except (OSError, ValueError, TypeError, KeyError):
        return True


# ------------------------------------------------------------------------------------------------ command


def said_by_all(error: BaseException) -> bool:
    """Whether every rank raises it, so that one may speak for them."""
    from rgpt.train.endings import Ended

    return isinstance(error, Ended | Left)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rgpt.train.run", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings in place of the file's")
    parser.add_argument("--resume", action="store_true", help="continue from the newest whole checkpoint")
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="with --resume: go on although data, base or DeepSpeed settings have changed, and record it",
    )
    parser.add_argument("--check", action="store_true", help="check settings and files, then stop")
    parser.add_argument("--stage", choices=("align", "tune"), help="refuse a run of another stage")
    parser.add_argument("--processes", type=int, default=None, help="with --check: how many there will be")
    options = parser.parse_intermixed_args(arguments)
    try:
        # Before a launcher is started, what stands in its variables says nothing.
        rank, processes = (0, options.processes) if options.processes else launched()
        if options.accept_changed_data and not options.resume:
            raise InputError("--accept-changed-data: expected --resume with it; a new run needs none.")
        run = read_run(options.run, options.overrides)
        if options.stage and run.stage != options.stage:
            raise InputError.about(
                "stage", options.stage, run.stage, "use pretrain.sh for align, finetune.sh for tune"
            )
        if options.check:
            check_run(run, processes)
            check_folder(run, options.resume)
            return 0
        with leaving.heard(lambda: f"go on with {command_to_continue()}"):
            result = train(run, options.resume, options.accept_changed_data)
    except (InputError, Left) as error:
        if os.environ.get("RANK", "0") == "0" or not said_by_all(error):
            print(f"rgpt.train: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return error.status if isinstance(error, Left) else 2
    if rank == 0:
        print(f"the result is in {result}")
    return 0


if __name__ == "__main__":
    status = main()
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized() and status == 0:
            dist.destroy_process_group()
    sys.exit(status)
