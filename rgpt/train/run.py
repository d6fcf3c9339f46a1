"""One stage of training, from a YAML file to a folder with weights.

    torchrun --nproc_per_node N -m rgpt.train.run RUN.yaml [key=value ...] [--resume] [--check] [--stage S]

`scripts/pretrain.sh` and `scripts/finetune.sh` are this with the processes counted. The folder `out` gets
run.yaml and versions.json at once, log.jsonl, answers.jsonl, tensorboard/ and checkpoints/ on the way, and at
the end curve.png and `model/` (or `adapter/`, or `delta/`), which is there whole or not at all.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rgpt.errors import InputError
from rgpt.files import sole_writer, write_json, write_text
from rgpt.train import checkpoints, record
from rgpt.train.arguments import DataFile, Run, check_files, read_run, refuse_other_run

if TYPE_CHECKING:
    from rgpt.data.dataset import TrainingSet
    from rgpt.data.mixture import Mixture
    from rgpt.data.sample_files import SampleFile


def train(run: Run, resume: bool = False) -> Path:
    """Train as `run` says; returns the folder of the result. Every process of a launch calls this.

    Raises:
        InputError: before any training, for whatever cannot work.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    check_files(run, processes)
    with contextlib.ExitStack() as held:
        checkpoint = open_folder(run, resume, processes, rank, held)
        result = Path(run.out) / ("adapter" if run.method != "full" else "delta" if run.delta else "model")
        if not resume or not result.is_dir():
            train_to(run, result, checkpoint, rank, processes)
    return result


def train_to(run: Run, result: Path, checkpoint: Path | None, rank: int, processes: int) -> None:
    """What `train` does once the folder is this run's alone, from a checkpoint or from the start."""
    import torch

    from rgpt.data.collator import Collator
    from rgpt.data.mixture import MicroBatches
    from rgpt.train.trainer import RegionTrainer

    out = Path(run.out)
    random.seed(run.seed)
    torch.manual_seed(run.seed)

    files = [open_file(item.path, item.kind, item.images, rank) for item in run.data]
    model, tower, processor = open_model(run)
    rows, held_out = training_set(run, files, processor, model, tower, rank)
    mixture = mix(run, files, processor.image_tokens)
    steps = run.max_steps or math.ceil(run.epochs * mixture.batches_per_epoch)
    batches = MicroBatches(mixture, steps, run.micro_batch_size, rank, processes)
    collator = Collator(processor.tokenizer.pad_token_id or 0, run.packing)
    if rank == 0:
        say(run, mixture, steps, processes, model, tower)

    trainer = RegionTrainer(
        model,
        run,
        hf_arguments(run, steps, batches.accumulation),
        rows,
        batches,
        collator,
        tower,
        held_out,
        callbacks(run, out),
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    save_result(trainer, result)
    if trainer.samples_skipped:
        print(f"{trainer.samples_skipped} bad samples were skipped; see {out}/bad_samples.{rank}.jsonl")


# ------------------------------------------------------------------------------------------------ the folder


def check_folder(run: Run, resume: bool) -> None:
    """Raises InputError when `out` holds a run and this is not its continuation."""
    saved = Path(run.out) / "run.yaml"
    if saved.is_file():
        if not resume:
            raise InputError.about(
                "out",
                "a new folder",
                f"{run.out!r}, which holds a run",
                "add --resume to continue it, or name another",
            )
        refuse_other_run(run, saved)


def open_folder(run: Run, resume: bool, processes: int, rank: int, held: contextlib.ExitStack) -> Path | None:
    """Make `out`, or find the checkpoint to continue from; while `held` is open, nobody else writes there.

    Raises InputError.
    """
    out = Path(run.out)
    if rank == 0:  # it alone looks and writes: another rank could take what it writes for an older run
        check_folder(run, resume)  # what is wrong in any case, without waiting
        out.mkdir(parents=True, exist_ok=True)
        held.enter_context(sole_writer(out))
        check_folder(run, resume)
        if not (out / "run.yaml").is_file():
            (out / "checkpoints").mkdir(exist_ok=True)
            write_json(out / "versions.json", record.versions())
            write_text(out / "run.yaml", run.to_yaml())
    return checkpoints.newest(out / "checkpoints", processes) if resume else None


def save_result(trainer: Any, result: Path) -> None:
    """The weights, with run.yaml and versions.json beside them, under their name in one step."""
    partial = result.with_name(f".{result.name}.partial")
    if trainer.is_world_process_zero():
        shutil.rmtree(partial, ignore_errors=True)
    trainer._barrier()
    trainer.save_model(str(partial))
    trainer._barrier()
    if trainer.is_world_process_zero():
        for name in ("run.yaml", "versions.json"):
            shutil.copyfile(result.parent / name, partial / name)
        os.replace(partial, result)
    trainer._barrier()


# ------------------------------------------------------------------------------------------------ the parts


def open_file(path: str, kind: str | None, images: str | None, rank: int) -> SampleFile:
    from rgpt.data.sample_files import SampleFile

    return SampleFile(path, kind, images, check=True, progress=rank == 0)


def open_model(run: Run) -> tuple[Any, Any, Any]:
    """(model with only what the stage trains trainable, its hidden tower, processor)."""
    import torch

    from rgpt.model import load
    from rgpt.train.adapters import add_adapters, quantization
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
    run: Run, files: Sequence[SampleFile], processor: Any, model: Any, tower: Any, rank: int
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
    if run.held_out is None:
        return rows, None
    file = open_file(run.held_out.path, run.held_out.kind, run.held_out.images, rank)
    return rows, TrainingSet([file], processor, **settings)


def mix(run: Run, files: Sequence[SampleFile], image_tokens: int) -> Mixture:
    from rgpt.data.mixture import Mixture

    lengths = None
    if run.group_by_length:
        # About four letters a token; exact lengths are not needed to put like to like.
        lengths = [file.characters // 4 + image_tokens * file.has_picture for file in files]
    return Mixture(
        [len(file) for file in files], [item.weight for item in run.data], run.batch_size, run.seed, lengths
    )


def hf_arguments(run: Run, steps: int, accumulation: int) -> Any:
    """Hugging Face's arguments; made after the model is loaded, because they announce ZeRO-3 to everyone."""
    import torch
    from transformers import TrainingArguments

    from rgpt.train.progress import trackers

    os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(run.out) / "tensorboard")
    cuda = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(Path(run.out) / "checkpoints"),
        run_name=Path(run.out).name,
        per_device_train_batch_size=run.micro_batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        learning_rate=run.lr,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(run.warmup * steps),
        max_grad_norm=run.max_grad_norm,
        bf16=run.precision == "bf16",
        use_cpu=not cuda,
        deepspeed=run.deepspeed,
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


def may_be_photographs(item: DataFile) -> bool:
    """Whether nothing says that the samples' pictures were drawn, as the recipe `shapes` does beside them."""
    import json

    try:
        return json.loads(Path(item.path).with_name("report.json").read_text("utf-8"))["recipe"] != "shapes"
    except (OSError, ValueError, TypeError, KeyError):
        return True


# ------------------------------------------------------------------------------------------------ command


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rgpt.train.run", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings in place of the file's")
    parser.add_argument("--resume", action="store_true", help="continue from the newest whole checkpoint")
    parser.add_argument("--check", action="store_true", help="check settings and files, then stop")
    parser.add_argument("--stage", choices=("align", "tune"), help="refuse a run of another stage")
    parser.add_argument("--processes", type=int, default=None, help="with --check: how many there will be")
    options = parser.parse_intermixed_args(arguments)
    processes = options.processes or int(os.environ.get("WORLD_SIZE", 1))
    try:
        run = read_run(options.run, options.overrides)
        if options.stage and run.stage != options.stage:
            raise InputError.about(
                "stage", options.stage, run.stage, "use pretrain.sh for align, finetune.sh for tune"
            )
        if options.check:
            check_files(run, processes)
            check_folder(run, options.resume)
            return 0
        result = train(run, options.resume)
    except InputError as error:
        print(f"rgpt.train: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 2
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"the result is in {result}")
    return 0


if __name__ == "__main__":
    status = main()
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized() and status == 0:
            dist.destroy_process_group()
    sys.exit(status)
