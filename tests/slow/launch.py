"""Real training processes: started with the launcher, watched through their log, killed without warning."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from rgpt.train import record

ROOT = Path(__file__).parents[2]
LIMIT = 420.0


def write_run(folder: Path, settings: dict[str, Any]) -> Path:
    path = folder / f"{Path(settings['out']).name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


class Launch:
    """`processes` of a run; 0 is one plain Python process without a launcher."""

    def __init__(self, run: Path, processes: int, *words: str) -> None:
        self.out = Path(yaml.safe_load(run.read_text())["out"])
        command = [sys.executable, "-m"]
        if processes:
            command += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        self.log = self.out.with_suffix(".output")
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [*command, "rgpt.train.run", str(run), *words],
                cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def step(self) -> int:
        rows = [row for row in record.read_log(self.out / "log.jsonl") if "loss" in row]
        return rows[-1]["step"] if rows else 0

    def wait_until(self, reached: Callable[[], bool], every: float = 0.05) -> None:
        """Fails when the run ends or hangs before that."""
        began = time.monotonic()
        while not reached():
            assert self.process.poll() is None, f"it ended by itself:\n{self.tail()}"
            assert time.monotonic() - began < LIMIT, f"it hangs at step {self.step()}:\n{self.tail()}"
            time.sleep(every)

    def kill(self) -> None:
        """SIGKILL to every process at once: nobody gets to clean up."""
        parent = psutil.Process(self.process.pid)
        family = [*parent.children(recursive=True), parent]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)
        self.process.wait()

    def finish(self) -> None:
        try:
            status = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it hangs at step {self.step()}:\n{self.tail()}") from None
        assert status == 0, self.tail()

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


def losses(out: Path) -> dict[int, float]:
    """Loss by step, as logged."""
    return {row["step"]: row["loss"] for row in record.read_log(out / "log.jsonl") if "loss" in row}
