"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server, in a registry of their own.

    Args:
        running, waiting: how many requests do so now.
    """

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self.requests = Counter(
            "rgpt_requests",
            "Requests for answers by how they ended: stop, length, disconnected, or the code of the error.",
            ["outcome"],
            registry=own,
        )
        self.seconds = Histogram(
            "rgpt_request_seconds",
            "From the request to the end of its answer.",
            buckets=SECONDS,
            registry=own,
        )
        self.first = Histogram(
            "rgpt_first_token_seconds", "From the request to its first text.", buckets=SECONDS, registry=own
        )
        self.tokens = Counter(
            "rgpt_tokens", "Tokens: prompt, of these cached, and answer.", ["kind"], registry=own
        )
        self.pictures = Counter(
            "rgpt_pictures",
            "Pictures of requests: known already, or encoded anew.",
            ["cache"],
            registry=own,
        )
        Gauge("rgpt_requests_running", "Answers being computed.", registry=own).set_function(running)
        Gauge("rgpt_requests_waiting", "Requests in line.", registry=own).set_function(waiting)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self.registry)
