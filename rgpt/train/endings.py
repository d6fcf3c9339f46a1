"""How a run ends before its last step."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from rgpt.errors import InputError
from rgpt.train import checkpoints
from rgpt.train.leaving import command_to_continue


class Ended(InputError):
    """The run cannot go on. Raised on every rank at once, with the same sentence."""


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
WRITING = (
    "No space left",
    "os error 28",
    "os error 27",
    "File too large",
    "PytorchStreamWriter",
    "unexpected pos",
)
"""How libraries say that a write failed which only have words for it."""
FILES = ("Too many open files", "received 0 items of ancdata")
LOST = ("Connection closed by peer", "Connection reset by peer", "Socket closed")


def last_checkpoint(out: Path) -> str:
    """Which checkpoint is whole, and the command that goes on from it."""
    whole = checkpoints.complete(out / "checkpoints")
    if not whole:
        return f"no checkpoint was written yet; begin again with {command_to_continue()}"
    return f"{whole[-1].name} is whole; go on with {command_to_continue()}"


@contextlib.contextmanager
def one_sentence(out: Path) -> Iterator[None]:
    """Faults of the machine, and what the run stands at, as an InputError; others pass through."""
    threading.excepthook, before = _of_a_thread, threading.excepthook
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, MemoryError, SafetensorError) as error:
        said = _cause(error)
        if said is None and isinstance(error, OSError) and not out.is_dir():
            raise InputError(f"{out} is no longer there: somebody has removed it under the run.") from error
        if said is None:
            raise
        raise InputError(f"{said}; {last_checkpoint(out)}") from error
    finally:
        threading.excepthook = before


def _of_a_thread(facts: Any) -> None:
    """TensorBoard writes in a thread: what keeps it from writing ends the run, too, and is said there."""
    if _cause(facts.exc_value) is None:
        threading.__excepthook__(facts)


def _cause(error: BaseException) -> str | None:
    text = " ".join(str(error).split())
    if getattr(error, "errno", None) in FULL or any(words in text for words in WRITING):
        return f"{text[:160]}: the run could not write; make room on the disk"
    if getattr(error, "errno", None) == errno.EMFILE or any(words in text for words in FILES):
        return "too many files are open: raise the limit (ulimit -n 65536), or set workers lower"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "out of memory: lower micro_batch_size, which changes neither batch nor loss"
    if "DataLoader worker" in text:
        return f"{text[:120]}: a data worker has died, mostly for want of memory; set workers lower"
    if isinstance(error, dist.DistError) or any(words in text for words in LOST):
        return "another process of this run has ended, and says why"
    return None


def distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed(numbers: Iterable[float], device: Any) -> list[float]:
    """The sums over all ranks, float64; every rank must call this."""
    values = torch.tensor(list(numbers), dtype=torch.float64, device=device)
    if distributed():
        dist.all_reduce(values)
    return values.tolist()


def gathered(items: list[Any]) -> list[Any]:
    """The items of all ranks, one rank after the other; every rank must call this."""
    if not distributed():
        return items
    lists: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(lists, items)
    return [item for own in lists for item in own]


def refuse_ranks_that_differ(own: Mapping[str, Any]) -> None:
    """Raises Ended, on all ranks, when they were given different things: machines have their own disks."""
    first, *others = gathered([dict(own)])
    for rank, other in enumerate(others, start=1):
        if differing := [name for name in first if first[name] != other.get(name)]:
            raise Ended(f"rank {rank} has another {', '.join(differing)} than rank 0: copy rank 0's there.")


def not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor with a NaN or an infinite value; None when all are finite.

    Of tensors that ZeRO-3 shards this rank's part is looked at.
    """
    names, flags = [], []
    for name, tensor in named:
        tensor = getattr(tensor, "ds_tensor", tensor).detach()
        if tensor.is_floating_point() and tensor.numel():
            names.append(name)
            flags.append(tensor.isfinite().all())
    if not flags:
        return None
    found = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()  # one wait for the device
    return next((name for name, finite in zip(names, found, strict=True) if not finite), None)
