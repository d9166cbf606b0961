"""Settings of the server: what is served, on how many replicas, to whom, and how much at once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from setok.config.section import Section
from setok.errors import ConfigError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ReplicaConfig(Section):
    """Copies of the model, and when there are more or fewer."""

    min: int = Field(1, ge=0)
    """Without any, the first request waits until a replica has started."""
    max: int = Field(1, ge=0)
    """0 serves without Ray, with one model in a process beside the web server's: for a laptop."""
    target_ongoing: float = Field(16.0, gt=0.0)
    """Requests at once that one replica is meant for: above it more are started, below it some end."""
    upscale_delay_s: float = Field(10.0, ge=0.0)
    downscale_delay_s: float = Field(300.0, ge=0.0)
    max_surge_percent: int = Field(25, ge=0, le=100)
    """On Ray: copies that an update starts before old ones end, in percent of those there are, at least one. Where the new ones
    fail, the old ones go on. Where there is no room for one copy more, the update waits; 0 ends an old one first."""
    cpus: float = Field(1.0, gt=0.0)
    gpus: float = Field(0.0, ge=0.0)
    threads: int = Field(1, ge=1)
    """Of a replica's computing on a CPU."""

    @model_validator(mode="after")
    def _consistent(self) -> ReplicaConfig:
        if self.min > self.max:
            raise ConfigError(
                f"replicas.min={self.min} is above replicas.max={self.max}", f"--set replicas.max={self.min}"
            )
        return self


class IngressConfig(Section):
    """Where requests come in: they are checked and their pictures decoded there, on CPUs."""

    replicas: int = Field(1, ge=1)
    """Rate limits hold for each of them."""
    cpus: float = Field(0.5, gt=0.0)
    max_ongoing: int = Field(512, ge=1)
    """Requests that one of them deals with at once."""


class BatchingConfig(Section):
    """What goes through a replica's model at once. Replies join and leave the batch at every step."""

    max_rows: int = Field(32, ge=1)
    max_places: int = Field(32768, ge=1)
    """Token budget: rows times places of the longest, what it may still say and draw included. A single request may exceed it."""
    max_waiting: int = Field(64, ge=0)
    """Requests that wait for room, for every replica; more are told to come again (503)."""


class LimitsConfig(Section):
    """What one request may ask for, and how long it may take."""

    max_body_bytes: int = Field(32 * 2**20, ge=1024)
    max_image_bytes: int = Field(16 * 2**20, ge=64)
    max_image_pixels: int = Field(32_000_000, ge=1)
    """Height times width; told from the header, before anything is decoded."""
    max_images: int = Field(8, ge=0)
    """In one request."""
    max_new_tokens: int = Field(1024, ge=1)
    """The most that ``max_tokens`` may be."""
    default_new_tokens: int = Field(256, ge=1)
    """Where a request does not say."""
    max_choices: int = Field(8, ge=1)
    """The most that ``n`` may be: replies to one conversation, or pictures of one request for pictures."""
    request_timeout_s: float = Field(120.0, gt=0.0)
    """From when a request has come in to when its reply is complete; then 504."""

    @model_validator(mode="after")
    def _consistent(self) -> LimitsConfig:
        if self.default_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"limits.default_new_tokens={self.default_new_tokens} is above limits.max_new_tokens={self.max_new_tokens}",
                f"--set limits.default_new_tokens={self.max_new_tokens}",
            )
        return self


class AccessConfig(Section):
    """Who may ask, how often, and from where."""

    keys_file: str | None = None
    """Lines of ``NAME sha256:…``, as ``python -m ray_jobs.serve --new-key NAME`` prints them; the environment's
    ``SETOK_API_KEYS`` may hold more, with commas for line ends. Without any key everyone is let in."""
    allow_anonymous: bool = False
    """Serve without keys to other machines too."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Of every key; ``null`` for no limit."""
    burst: int = Field(20, ge=1)
    """Requests that may come at once before the rate holds."""
    image_hosts: tuple[str, ...] = ()
    """Hosts from which pictures may be fetched by URL. Private addresses and redirects are refused in any case."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages elsewhere that may call the API."""


class ServeSection(Section):
    """Where it listens, and how it ends."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    drain_s: float = Field(30.0, ge=0.0)
    """How long replies under way may take when the server is told to stop, or replaced."""
    log_level: Literal["info", "warning"] = "info"
    """``info`` logs a line for every request, without what is in it."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK
