"""Hugging Face's Trainer with our order of samples, our parameter groups, and checkpoints that are whole.

What is ours: batches come from `MicroBatches` (a pure function of the step, so a resumed run sees the same
samples), bad samples stop the run or are listed, the loss is the mean over the learned tokens of a whole step
over all micro-batches and ranks, no update is made of a loss or gradient that is not finite, and a checkpoint
gets its name only when every rank has written its part.

What one rank finds wrong all of them hear of before the update (one small sum a step), so that they end, or
pass the step over, together.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer
from transformers.integrations import is_deepspeed_zero3_enabled

from rgpt.data.collator import Collator, model_inputs
from rgpt.data.dataset import BAD_KINDS, BadSample, TrainingSet
from rgpt.data.mixture import MicroBatches
from rgpt.files import replace_folder, write_json
from rgpt.model.bases import base_for, write_base
from rgpt.model.processing_regiongpt import IGNORED
from rgpt.train import checkpoints, record
from rgpt.train.arguments import Run
from rgpt.train.endings import Ended, gathered, last_checkpoint, not_finite, summed
from rgpt.train.evaluation import (
    Best,
    Question,
    accuracies,
    answers,
    held_out_loss,
    scored_questions,
    spread,
)
from rgpt.train.groups import parameter_groups
from rgpt.train.hidden_tower import HiddenTower, tower_state
from rgpt.train.inputs import digest_of
from rgpt.train.leaving import Left, leaving, let_the_parent_decide
from rgpt.train.meter import flops_per_token, peak_flops
from rgpt.train.name_loss import name_loss
from rgpt.train.stages import STAGES, part_of

COUNTED = ("samples", "tokens", "pictures", "learned", "cut", *BAD_KINDS)
COUNTS = "counts.json"
"""In a checkpoint: what was counted up to it, over all ranks, and the `Best` until then; the same beside the
best weights, which may be younger."""
BEST = "best"
FEW = 1000
"""Samples after which a run that has learned nothing yet is ended."""


class RegionTrainer(Trainer):
    """See the module. `held_out` is a `TrainingSet` of one file, `held_out_rows` those of it that are asked
    for and can be used."""

    optimizer: Any

    def __init__(
        self,
        model: nn.Module,
        run: Run,
        arguments: Any,
        rows: TrainingSet,
        batches: MicroBatches,
        collator: Collator,
        tower: HiddenTower,
        held_out: TrainingSet | None = None,
        held_out_rows: Sequence[int] = (),
        callbacks: Any = None,
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=held_out,
            data_collator=collator,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)  # `Record` does it
        self.run, self.batches, self.tower, self.held_out_rows = run, batches, tower, held_out_rows
        self.folder = Path(run.out)
        # Named now: what lies there when the run ends may be another model.
        self.base = base_for(run.model, STAGES["align"].trains) if run.delta or run.method != "full" else None
        self._tokenizer = rows.processor.tokenizer
        self._handled = -1
        self.best: Best | None = None
        self._worse = 0  # looks at held-out samples since
        # Figures of other samples, or of another kind, do not compare.
        self._held_out_mark = run.held_out and {
            "by": run.keep_best or "loss",
            "file": digest_of(run.held_out.path),
            "samples": run.held_out.samples,
        }
        self._saved_step, self._saved_at, self._save_due = -1, time.monotonic(), 0.0
        self._staging: str | None = None
        # Counted by this rank since the last sum; by all since the last log; by all in all.
        self._local, self._window, self.totals = (dict.fromkeys(COUNTED, 0.0) for _ in range(3))
        self._step_losses: list[Tensor] = []
        self._idle: str | None = None  # why the step that is on makes no update
        self._in_a_row = 0
        self._steps_logged = [0, 0]  # since the last log: all, idle
        self._loss_before = torch.zeros(())
        self._waited, self._since = 0.0, time.perf_counter()
        self._row_tokens = [0, 0]  # tokens of rows, rows: for the average context
        self._sums_at_first = self._sums()

    # ------------------------------------------------------------------------------------------------ data

    def get_train_dataloader(self) -> DataLoader:
        # Not handed to accelerate: the batch sampler already deals to ranks, and moving to the device is
        # done in `_prepare_inputs`.
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=self.run.workers,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if self.run.workers else None,
            worker_init_fn=let_the_parent_decide,
        )

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: Any) -> Any:
        """The micro-batches of a step, and the tokens that all ranks learn from in it (1 where there are
        none)."""
        started, counted = time.perf_counter(), dict(self._local)
        batches = list(itertools.islice(epoch_iterator, num_batches))
        self._waited += time.perf_counter() - started
        learned, wrong = 0, list[str]()
        for batch in batches:
            wrong += self._meet_bad(batch.pop("bad"))
            for name, value in batch.pop("counts").items():
                self._local[name] += value
            learned += int((batch["shift_labels"] != IGNORED).sum())
            self._row_tokens[0] += batch["input_ids"].numel()
            self._row_tokens[1] += len(batch["input_ids"])
        self._local["learned"] += learned
        facts = summed([learned, bool(wrong), leaving.asked > 0, self._is_save_due()], device)
        learned_by_all, wrong_anywhere, leave, self._save_due = facts
        if leave:
            self._local = counted  # this step will be done by the run that goes on
            self._leave()
        if wrong_anywhere:
            raise Ended(gathered(wrong)[0])
        self._step_losses.clear()
        self._in_a_row = self._in_a_row if self._idle == "not finite" else 0
        self._idle = None if learned_by_all else "nothing to learn"
        self._steps_logged[0] += 1
        self._steps_logged[1] += self._idle is not None
        self._loss_before = self._tr_loss.clone()
        # A step of bad samples only has nothing to learn; 0 / 0 would poison the weights.
        return batches, torch.tensor(max(learned_by_all, 1.0), dtype=torch.float32, device=device)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        model.train()
        with self.compute_loss_context_manager():
            inputs = self._prepare_inputs(inputs)
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        self._step_losses.append(loss.detach())
        last = self.accelerator.sync_gradients
        if last:
            wrong = [n for n, each in enumerate(torch.stack(self._step_losses).tolist()) if each - each != 0]
            if summed([len(wrong)], loss.device)[0]:
                self._meet_not_finite("loss", wrong)
        deepspeed = self.is_deepspeed_enabled
        # Its engine updates inside `backward`, but never from gradients that are not finite.
        spoil = last and deepspeed and self._idle is not None
        with spoiled(model.parameters()) if spoil else contextlib.nullcontext():
            self.accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))
        if last and deepspeed and self._idle is None and self.accelerator.optimizer_step_was_skipped:
            self._meet_not_finite("gradient", range(len(self._step_losses)))
        return torch.zeros_like(loss) if last and self._idle is not None else loss.detach()

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)  # of the gradients summed over ranks: the same on each
        if self.is_deepspeed_enabled:
            return norm
        if self._idle is None and not torch.as_tensor(norm).isfinite():
            self._meet_not_finite("gradient", range(len(self._step_losses)))
        if self._idle is not None:
            self.optimizer.zero_grad()  # without gradients AdamW changes neither weights nor moments
        return norm

    def _meet_not_finite(self, what: str, micro_batches: Iterable[int]) -> None:
        """Pass this step over, or end the run. Every rank calls it, with those of its micro-batches in which
        something is not finite."""
        self._in_a_row += 1
        step = self.state.global_step + 1
        names = gathered(self._not_finite_samples(micro_batches))
        shown = "; ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")
        about = f"step {step}: the {what} is not finite in {shown}"
        if self.run.on_nonfinite == "stop":
            raise Ended(
                f"{about}: look at these samples, lower lr or max_grad_norm, or set on_nonfinite: skip."
            )
        if self._in_a_row > self.run.nonfinite_in_a_row:
            raise Ended(
                f"{about}, as before it: {self._in_a_row} steps in a row; lower lr, and go on from an "
                "earlier checkpoint."
            )
        self._idle = "not finite"
        self._steps_logged[1] += 1
        self._tr_loss.copy_(self._loss_before)
        if self.is_world_process_zero():
            row = {"step": step, "nonfinite": 1, "what": what, "samples_nonfinite": names}
            record.append(self.folder / "log.jsonl", row)

    def _not_finite_samples(self, micro_batches: Iterable[int]) -> list[str]:
        """Names of those samples of micro-batches whose own loss is not finite; all where none is alone, or
        where ranks would have to look together."""
        batch = self.batches.mixture.batch(self.state.global_step)
        draws = [draw for number in micro_batches for draw in self.batches.of_step(batch, number)]
        rows: Any = self.train_dataset
        found = []
        if not (self.is_deepspeed_enabled and is_deepspeed_zero3_enabled()):
            model = self.accelerator.unwrap_model(self.model)
            with torch.no_grad(), torch.random.fork_rng(), self.compute_loss_context_manager():
                for draw in draws:
                    item = rows[draw]
                    if not isinstance(item, BadSample):
                        inputs = self._prepare_inputs(self.data_collator([item]))
                        loss = self.compute_loss(model, inputs, num_items_in_batch=torch.tensor(1.0))
                        if not loss.isfinite():
                            found.append(draw)
        return [rows.name(draw) for draw in found or draws]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if self.run.objective == "answers":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, mentions = name_loss(self.accelerator.unwrap_model(model), inputs, self._tokenizer)
        return loss / max(mentions, 1) / self.current_gradient_accumulation_steps

    def _is_save_due(self) -> bool:
        """Whether the first rank's clock says so: clocks differ, and all must save together."""
        minutes = self.run.save_minutes
        return (
            minutes is not None
            and self.is_world_process_zero()
            and time.monotonic() - self._saved_at > 60 * minutes
        )

    def _leave(self) -> None:
        """Save a checkpoint of the last whole step, and raise Left; every rank calls it."""
        step, number = self.state.global_step, int(leaving.asked or signal.SIGTERM)
        if step and step != self._saved_step:
            self._save_checkpoint(self.model, None)
        name = signal.Signals(number).name
        raise Left(number, f"stopped by {name} after step {step}: {last_checkpoint(self.folder)}")

    def _meet_bad(self, bad: list[BadSample]) -> list[str]:
        """Count and list bad samples; returns sentences about those that the run must not go on after."""
        for item in bad:
            self._local[item.kind] += 1
            facts = {"sample": item.id, "kind": item.kind, "reason": item.reason}
            record.append(self._bad_file(), {"step": self.state.global_step + 1, **facts})
        return [f"{item.id}: {item.reason}" for item in bad if item.fatal or self.run.on_bad_sample == "stop"]

    def _bad_file(self) -> Path:
        return self.folder / f"bad_samples.{self.args.process_index}.jsonl"

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # The library would round region masks and cached features to the model's precision first.
        return model_inputs(inputs, self.args.device)

    # ------------------------------------------------------------------------------------------------ rates

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = parameter_groups(
                self.model if model is None else model,
                self.run.lr,
                self.run.connector_lr,
                self.run.weight_decay,
            )
            kind: Any = torch.optim.AdamW
            if self._offloads():
                from deepspeed.ops.adam import DeepSpeedCPUAdam

                kind = DeepSpeedCPUAdam
            self.optimizer = kind(groups, lr=self.run.lr, betas=(0.9, 0.999), eps=1e-8)
        return self.optimizer

    def _offloads(self) -> bool:
        if not self.is_deepspeed_enabled:
            return False
        return bool(self.accelerator.state.deepspeed_plugin.hf_ds_config.is_offload())

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # counted by `log`, from real tokens

    # ------------------------------------------------------------------------------------------------ log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self._speed())
            steps, idle = self._steps_logged
            self._steps_logged = [0, 0]
            if steps > idle:
                logs["loss"] *= steps / (steps - idle)  # the mean over the steps that had one
            else:
                del logs["loss"]
        logs = {
            key: value
            for key, value in logs.items()
            if key != "total_flos" and (not isinstance(value, float) or math.isfinite(value))
        }
        super().log(logs)

    def _count(self) -> None:
        """Sum what ranks have counted since; every rank must call this."""
        for name, value in zip(COUNTED, summed(self._local.values(), self.args.device), strict=True):
            self._window[name] += value
            self.totals[name] += value
        self._local = dict.fromkeys(COUNTED, 0.0)

    def check_learned(self, at_end: bool = False) -> None:
        """Raises Ended when the run, at its end or after `FEW` samples, has learned from none."""
        if not self.totals["learned"] and (at_end or sum(samples_seen(self.totals)) >= FEW):
            raise Ended(f"the run has learned no token: {summary(self.totals)}; nothing is published.")

    def finish(self) -> None:
        """Raises Ended when what was trained is no result."""
        self._count()
        self.check_learned(at_end=True)
        self.check_weights()
        # Adam moves what is 0 by as little as the rate: to be seen it must be seen beside all the rest.
        seen = 1e-12 * sum(self._sums_at_first)
        pairs = zip(self._sums(), self._sums_at_first, strict=True)
        changed = any(abs(now - before) > seen for now, before in pairs)
        if self.state.global_step and not summed([changed], self.args.device)[0]:
            raise Ended(
                f"no weight has changed in {self.state.global_step} steps: lr {self.run.lr:g} is too small "
                f"for {self.run.precision}, or nothing reaches what is trained; nothing is published."
            )

    def _sums(self) -> list[float]:
        """Of every tensor that is trained the sum of its magnitudes; under ZeRO-3 of this rank's part."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        parts = [getattr(parameter, "ds_tensor", parameter).detach() for parameter in trained]
        return [float(torch.linalg.vector_norm(part, 1, dtype=torch.float64)) for part in parts]

    def check_weights(self) -> None:
        """Raises Ended when weights are not finite on any rank."""
        found = not_finite(self.model.named_parameters())
        if summed([found is not None], self.args.device)[0]:
            names = gathered([found])
            raise Ended(
                f"step {self.state.global_step}: the weights are not finite "
                f"({next(name for name in names if name)}): they are not saved; lower lr, and go on from the "
                "checkpoint before."
            )

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # The library calls this after the last step and once more after the epoch, its flags still set.
        if self._handled != self.state.global_step:
            self._handled = self.state.global_step
            if self.is_deepspeed_enabled and self._idle is not None:
                self.lr_scheduler.step()  # which the library leaves out: rates belong to steps
            self.control.should_save = self.control.should_save or bool(self._save_due)
            super()._maybe_log_save_evaluate(*args, **kwargs)

    def _speed(self) -> dict[str, float]:
        """Figures since the last log, summed over ranks; called by every rank."""
        now = time.perf_counter()
        seconds, waited = now - self._since, self._waited
        self._count()
        self.check_learned()
        counts, self._window = self._window, dict.fromkeys(COUNTED, 0.0)
        good, bad = samples_seen(counts)
        tokens = counts["tokens"]
        speed = {
            "samples_per_second": good / seconds,
            "tokens_per_second": tokens / seconds,
            "learned_tokens": counts["learned"],
            "pictures": counts["pictures"],
            "data_share": waited / seconds,
            "share_cut": counts["cut"] / max(good + bad, 1),
            "share_skipped": bad / max(good + bad, 1),
            "share_unlearned": counts["unlearned"] / max(good + bad, 1),
        }
        peak = peak_flops(self.run.peak_tflops)
        if peak is not None and self._row_tokens[1]:
            context = self._row_tokens[0] / self._row_tokens[1]
            done = flops_per_token(self.model, context) * tokens
            speed["mfu"] = done / seconds / (peak * self.args.world_size)
        self._row_tokens = [0, 0]
        self._waited, self._since = 0.0, now
        return speed

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Held-out loss and accuracy, and answers into answers.jsonl; nothing when it is time to leave."""
        settings, rows = self.run.held_out, self.eval_dataset
        if settings is None or rows is None:
            return {}
        began = time.perf_counter()
        was_training = self.model.training
        self.model.eval()
        file = rows.files[0]
        context = self.autocast_smart_context_manager
        by_name = self.run.objective == "names"
        with context():
            loss = held_out_loss(
                self.model,
                rows,
                self.data_collator,
                self.measured_rows(),
                self.run.micro_batch_size,
                partial(name_loss, tokenizer=self._tokenizer) if by_name else None,
            )
            # Names are not generated: the language model has not been trained to read these vectors yet.
            shown = [] if by_name else spread(len(file), settings.answers, self.run.seed)
            questions = [Question(row) for row in shown if row in self.held_out_rows]
            count = len(questions)
            if settings.accuracy:
                questions += scored_questions(rows, self.measured_rows())[0]
            table = answers(
                self.accelerator.unwrap_model(self.model),
                rows,
                questions,
                # On the way out there is no time for hundreds of answers.
                stop=lambda: summed([leaving.asked > 0], self.args.device)[0] > 0,
                progress=self.is_world_process_zero(),
            )
        self.model.train(was_training)
        if not math.isfinite(loss):
            raise Ended(
                f"step {self.state.global_step}: the held-out loss is not finite; look at {settings.path} "
                "and at what the model has become."
            )
        if table is None:
            return {}
        figures = {"held_out_loss": loss, **accuracies(table)}
        self.log(dict(figures))
        self._weigh(figures)
        if self.is_world_process_zero():
            step = self.state.global_step
            for row in table:
                record.append(self.folder / "answers.jsonl", {"step": step, **row})
            if count:
                print(record.answer_table(table[:count], step), flush=True)
        self._since += time.perf_counter() - began  # training speed is not the evaluation's
        return figures

    def measured_rows(self) -> list[int]:
        """The held-out samples that loss and accuracy are of."""
        assert self.run.held_out is not None
        return [row for row in self.held_out_rows if row < self.run.held_out.samples]

    def _weigh(self, figures: Mapping[str, float]) -> None:
        """Whether this is the best step so far, or time to stop; every rank has the same figures."""
        now = Best(
            self.run.keep_best or "loss",
            self.state.global_step,
            figures["held_out_loss"],
            figures.get("held_out_accuracy"),
        )
        if now.better_than(self.best):
            self.best, self._worse = now, 0
            if self.run.keep_best:
                self.check_weights()
                self.save_whole(self.folder / BEST, self._sign)
            return
        self._worse += 1
        if self.run.early_stop is not None and self._worse >= self.run.early_stop:
            self.control.should_training_stop = self.control.should_save = True

    def _sign(self, folder: Path) -> None:
        """Note beside the best weights which they are: a run that goes on may be older than they."""
        write_json(folder / COUNTS, self.best)

    def save_whole(self, folder: Path, finish: Callable[[Path], None] = lambda folder: None) -> None:
        """The weights, under their name in one step, in place of what was there; `finish` adds to them."""
        partial = folder.with_name(f".{folder.name}.partial")
        if self.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
        self._barrier()
        best = self.folder / BEST
        if folder == best or not (self.run.keep_best and self.best):
            self.save_model(str(partial))
        elif self.is_world_process_zero():
            shutil.copytree(best, partial, ignore=shutil.ignore_patterns(COUNTS))
        self._barrier()
        if self.is_world_process_zero():
            finish(partial)
            replace_folder(partial, folder)
        self._barrier()

    def go_on_from(self, checkpoint: Path) -> None:
        """What the library's own state in a checkpoint does not hold, or holds of settings that may have
        changed since."""
        self._saved_step = int(checkpoint.name.rpartition("-")[2])
        record.cut_log(self._bad_file(), self._saved_step)
        with contextlib.suppress(FileNotFoundError):  # of a checkpoint before there was such a file
            kept = json.loads((checkpoint / COUNTS).read_text(encoding="utf-8"))
            self.totals |= kept["totals"]
            signed = self.folder / BEST / COUNTS
            weights = not self.run.keep_best or (
                signed.is_file() and json.loads(signed.read_text(encoding="utf-8")) == kept["best"]
            )
            if kept["best"] and kept.get("held_out") == self._held_out_mark and weights:
                self.best, self._worse = Best(*kept["best"]), kept["worse"]
            elif kept["best"] and self.is_world_process_zero():
                print("--resume: what the best step so far was is not comparable, or its weights are gone")

    # ------------------------------------------------------------------------------------------------ saving

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _barrier(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        began = time.perf_counter()
        folder, step = Path(self.args.output_dir), self.state.global_step
        self.check_weights()
        self._count()
        partial = checkpoints.staging(folder, step)
        if self.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._barrier()
        self._staging = str(partial)
        try:
            super()._save_checkpoint(model, trial)
        except BaseException:
            if self.is_world_process_zero():
                shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            self._staging = None
        self._barrier()
        if self.is_world_process_zero():
            name = f"checkpoint-{step}"
            kept = {
                "totals": self.totals,
                "best": self.best,
                "worse": self._worse,
                "held_out": self._held_out_mark,
            }
            write_json(partial / name / COUNTS, kept)
            checkpoints.publish(
                partial / name,
                folder / name,
                step=step,
                processes=self.args.world_size,
                sharded=self.is_deepspeed_enabled,
            )
            checkpoints.tidy(folder, self.run.keep)
        self._barrier()
        self._saved_step, self._saved_at = step, time.monotonic()
        self._since += time.perf_counter() - began

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        # DeepSpeed's shards hold the weights too: a checkpoint need not gather and write them again.
        if _internal_call and self.is_deepspeed_enabled and self.run.method == "full":
            return
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        assert output_dir is not None
        model = self.accelerator.unwrap_model(self.model)
        folder, final = Path(output_dir), Path(output_dir)
        if self._staging is not None:
            final = Path(self.args.output_dir) / folder.name
        # To go on, a full run needs the whole.
        is_layer = self.base is not None and (self.run.method != "full" or self._staging is None)
        if self.run.method == "full":
            state = dict(model.state_dict() if state_dict is None else state_dict)
            for name, source in getattr(model, "all_tied_weights_keys", {}).items():
                if source in state:  # DeepSpeed gathers copies, which would be written as two tensors
                    state.pop(name, None)
            if is_layer:
                folder.mkdir(parents=True, exist_ok=True)
                parts = STAGES[self.run.stage].trains
                kept = {name: value.contiguous() for name, value in state.items() if part_of(name) in parts}
                save_file(kept, folder / "model.safetensors", {"format": "pt"})
            else:
                model.save_pretrained(folder, state_dict={**state, **tower_state(self.tower)})
        else:
            # "auto" would look the base up on the hub, to see whether its vocabulary has grown.
            model.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # a form that nobody has filled in
        if is_layer:
            assert self.base is not None
            write_base(folder, *self.base, at=final)
        else:
            self.train_dataset.processor.save_pretrained(folder)


@contextlib.contextmanager
def spoiled(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gradients that are computed within are NaN, whatever the loss; also those of no labels, which are 0."""
    hooks = [
        parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
        for parameter in parameters
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def samples_seen(counts: Mapping[str, float]) -> tuple[int, int]:
    """(good samples, bad ones)."""
    return int(counts["samples"]), int(sum(counts[kind] for kind in BAD_KINDS))


def summary(counts: Mapping[str, float]) -> str:
    """How many samples were skipped, and why, and how many were cut."""
    good, bad = samples_seen(counts)
    kinds = ", ".join(f"{int(counts[kind]):,} {kind}" for kind in BAD_KINDS if counts[kind])
    return (
        f"{bad:,} of {good + bad:,} samples were skipped"
        + (f" ({kinds})" if kinds else "")
        + f", {int(counts['cut']):,} were cut"
    )
