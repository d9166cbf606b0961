"""What Prometheus is told of a server, by ingress replica; Ray tells of the replicas of the model (``ray_serve_…``)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Figures:
    """Counters of one process; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "setok_requests", "Requests that were answered.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "setok_request_seconds", "From request to end of answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "setok_first_token_seconds", "From request to the first of a reply.", buckets=_SECONDS, registry=registry
        )
        self.in_progress = Gauge("setok_requests_in_progress", "Requests under way.", registry=registry)
        self.tokens = Counter("setok_tokens", "Tokens that were read and made.", ["kind"], registry=registry)
