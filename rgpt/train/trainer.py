"""Hugging Face's Trainer with our order of samples, our parameter groups, and checkpoints that are whole.

What is ours: batches come from `MicroBatches` (a pure function of the step, so a resumed run sees the same
samples), bad samples stop the run or are listed, the loss is the mean over the learned tokens of a whole step
over all micro-batches and ranks, and a checkpoint gets its name only when every rank has written its part.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer

from rgpt.data.collator import Collator, model_inputs
from rgpt.data.dataset import BadSample, TrainingSet
from rgpt.data.mixture import MicroBatches
from rgpt.errors import InputError
from rgpt.model.bases import base_for, write_base
from rgpt.train import checkpoints, record
from rgpt.train.arguments import Run
from rgpt.train.evaluation import answers, held_out_loss, spread
from rgpt.train.groups import parameter_groups
from rgpt.train.hidden_tower import HiddenTower, tower_state
from rgpt.train.meter import flops_per_token, peak_flops
from rgpt.train.name_loss import name_loss
from rgpt.train.stages import STAGES, part_of

COUNTED = ("samples", "tokens", "pictures", "learned")


class RegionTrainer(Trainer):
    """See the module. `held_out` is a `TrainingSet` of one file."""

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
        self.run, self.batches, self.tower = run, batches, tower
        self.folder = Path(run.out)
        # Named now: what lies there when the run ends may be another model.
        self.base = base_for(run.model, STAGES["align"].trains) if run.delta or run.method != "full" else None
        self._tokenizer = rows.processor.tokenizer
        self.samples_skipped = 0
        self._handled = -1
        self._staging: str | None = None
        self._local = dict.fromkeys(COUNTED, 0)
        self._waited, self._since = 0.0, time.perf_counter()
        self._row_tokens = [0, 0]  # tokens of rows, rows: for the average context

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
        )

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: Any) -> Any:
        started = time.perf_counter()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waited += time.perf_counter() - started
        for batch in batches:
            self._meet_bad(batch.pop("bad"))
            for name, value in batch.pop("counts").items():
                self._local[name] += value
            self._local["learned"] += int((batch["shift_labels"] != -100).sum())
            self._row_tokens[0] += batch["input_ids"].numel()
            self._row_tokens[1] += len(batch["input_ids"])
        return batches, self._get_num_items_in_batch(batches, device)

    def _get_num_items_in_batch(self, batch_samples: list, device: Any) -> Any:
        items = super()._get_num_items_in_batch(batch_samples, device)
        # A step of bad samples only has nothing to learn; 0 / 0 would poison the weights.
        return items.clamp(min=1) if torch.is_tensor(items) else items

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

    def _meet_bad(self, bad: list[BadSample]) -> None:
        for item in bad:
            if self.run.on_bad_sample == "stop":
                raise InputError(f"{item.id}: {item.reason}")
            self.samples_skipped += 1
            path = self.folder / f"bad_samples.{self.args.process_index}.jsonl"
            record.append(
                path, {"step": self.state.global_step + 1, "sample": item.id, "reason": item.reason}
            )

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
        logs = {key: value for key, value in logs.items() if key not in ("total_flos",)}
        super().log(logs)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # The library calls this after the last step and once more after the epoch, its flags still set.
        if self._handled != self.state.global_step:
            self._handled = self.state.global_step
            super()._maybe_log_save_evaluate(*args, **kwargs)

    def _speed(self) -> dict[str, float]:
        """Figures since the last log, summed over ranks; called by every rank."""
        now = time.perf_counter()
        seconds, waited = now - self._since, self._waited
        counts = torch.tensor([float(self._local[name]) for name in COUNTED], device=self.args.device)
        if self.args.world_size > 1:
            dist.all_reduce(counts)
        samples, tokens, pictures, learned = counts.tolist()
        speed = {
            "samples_per_second": samples / seconds,
            "tokens_per_second": tokens / seconds,
            "learned_tokens": learned,
            "pictures": pictures,
            "data_share": waited / seconds,
        }
        peak = peak_flops(self.run.peak_tflops)
        if peak is not None and self._row_tokens[1]:
            context = self._row_tokens[0] / self._row_tokens[1]
            done = flops_per_token(self.model, context) * tokens
            speed["mfu"] = done / seconds / (peak * self.args.world_size)
        self._local = dict.fromkeys(COUNTED, 0)
        self._row_tokens = [0, 0]
        self._waited, self._since = 0.0, now
        return speed

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Held-out loss, and answers into answers.jsonl."""
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
                min(settings.samples, len(file)),
                self.run.micro_batch_size,
                partial(name_loss, tokenizer=self._tokenizer) if by_name else None,
            )
            # Names are not generated: the language model has not been trained to read these vectors yet.
            wanted = 0 if by_name else settings.answers
            chosen = [file[row] for row in spread(len(file), wanted, self.run.seed)]
            table = answers(self.accelerator.unwrap_model(self.model), rows, chosen)
        self.model.train(was_training)
        self.log({"held_out_loss": loss})
        if self.is_world_process_zero():
            step = self.state.global_step
            for row in table:
                record.append(self.folder / "answers.jsonl", {"step": step, **row})
            if table:
                print(record.answer_table(table, step), flush=True)
        self._since += time.perf_counter() - began  # training speed is not the evaluation's
        return {"held_out_loss": loss}

    # ------------------------------------------------------------------------------------------------ saving

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _barrier(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        began = time.perf_counter()
        folder, step = Path(self.args.output_dir), self.state.global_step
        partial = checkpoints.staging(folder, step)
        if self.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._barrier()
        self._staging = str(partial)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        self._barrier()
        if self.is_world_process_zero():
            name = f"checkpoint-{step}"
            checkpoints.publish(
                partial / name,
                folder / name,
                step=step,
                processes=self.args.world_size,
                sharded=self.is_deepspeed_enabled,
            )
            checkpoints.tidy(folder, self.run.keep)
        self._barrier()
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
