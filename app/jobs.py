"""Answers under way: at most one a picture, each of which can be stopped.

Gradio ends a streaming event when its tab closes. Stop, New chat and a new picture must be certain instead
that the computation has ended before the page changes, so they ask for it here and wait.
"""

from __future__ import annotations

import threading

from rgpt.errors import InputError


class Job:
    """One answer: asked, then claimed by the event that computes it, then ended."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.discarded = False
        self.ended = threading.Event()
        self.claimed = False


class Jobs:
    """The jobs of all visitors, by the token of the picture that is asked about; safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def begin(self, token: str) -> Job:
        """Announce an answer.

        Raises:
            InputError: the one before is still under way.
        """
        with self._lock:
            if token in self._jobs:
                raise InputError(
                    "The answer before this one is still being written; wait for it or stop it first."
                )
            self._jobs[token] = job = Job()
            return job

    def busy(self, token: str | None) -> bool:
        """Whether an answer about this picture is announced or under way."""
        with self._lock:
            return token in self._jobs

    def claim(self, token: str) -> Job | None:
        """The announced job, for the caller to compute and `end`; None when there is none or it has been
        claimed.
        """
        with self._lock:
            job = self._jobs.get(token)
            if job is None or job.claimed:
                return None
            job.claimed = True
            return job

    def end(self, token: str, job: Job) -> None:
        """Say that nothing is computed, or shown, for `job` any more."""
        with self._lock:
            if self._jobs.get(token) is job:
                del self._jobs[token]
        job.ended.set()

    def stop(self, token: str | None, *, discard: bool = False, timeout: float = 10.0) -> bool:
        """Stop the answer about this picture and wait until its computation has ended.

        Args:
            discard: what it had said is not wanted any more.
            timeout: seconds to wait; a decode step of a large model may take some.

        Returns:
            False when it had not ended in time; it will, at its next token.
        """
        with self._lock:
            job = self._jobs.get(token) if token else None
            if job is None:
                return True
            job.discarded = discard
            job.stopping.set()
            if not job.claimed:
                # Still in the queue: it will find nothing to compute.
                del self._jobs[token]  # type: ignore[arg-type]
                job.ended.set()
        return job.ended.wait(timeout)
