"""Who may ask: API keys of which only hashes are kept, and how often each may.

Keys are random and long, so a plain SHA-256 hides them; a slow hash is for passwords that people think of.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from setok.config import AccessConfig
from setok.errors import ConfigError

ENVIRONMENT = "SETOK_API_KEYS"
PREFIX = "sk-setok-"
ANONYMOUS = "anonymous"
_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s+sha256:(?P<digest>[0-9a-f]{64})")


def new_key(name: str) -> tuple[str, str]:
    """A new key, and the line of the keys file that lets it in.

    Raises:
        ConfigError: the name cannot stand in such a line.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name} sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    if not _LINE.fullmatch(line):
        raise ConfigError(f"{name!r} cannot name a key", "use letters, digits, and . _ -")
    return key, line


class ApiKeys:
    """Hashes of the keys that are let in, by the names under which they are logged.

    Args:
        digests: SHA-256, in hexadecimal.
    """

    def __init__(self, digests: Mapping[str, str]) -> None:
        self.digests = dict(digests)
        self._known = {name: bytes.fromhex(digest) for name, digest in digests.items()}

    def __len__(self) -> int:
        return len(self.digests)

    @classmethod
    def load(cls, access: AccessConfig, environment: Mapping[str, str] = os.environ) -> ApiKeys:
        """Those of the keys file and of the environment.

        Raises:
            ConfigError: a file that cannot be read, or a line that is none.
        """
        digests = _digests(environment.get(ENVIRONMENT, "").split(","), f"${ENVIRONMENT}")
        if access.keys_file is not None:
            try:
                lines = Path(access.keys_file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"access.keys_file={access.keys_file} cannot be read: {error}",
                    "write one with: python -m ray_jobs.serve --new-key NAME",
                ) from error
            digests |= _digests(lines, access.keys_file)
        return cls(digests)

    def name_of(self, key: str) -> str | None:
        """Whose key it is, ``None`` for nobody's. Takes as long for any key of nobody."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        found = None
        for name, known in self._known.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _digests(lines: Sequence[str], where: str) -> dict[str, str]:
    """Hashes by name; what stands behind a # is passed over."""
    digests = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:  # the line is not shown: it may hold the key itself
            raise ConfigError(
                f"line {number} of the keys in {where} is none",
                "write NAME sha256:…, as python -m ray_jobs.serve --new-key NAME prints it",
            )
        digests[match["name"]] = match["digest"]
    return digests


class RateLimit:
    """A token bucket for every name (as of ATM's generic cell rate): so many at once, so many a minute.

    Args:
        per_minute: ``None`` for no limit.
        burst: how many may come at once.
        clock: seconds that only go up.
    """

    def __init__(self, per_minute: int | None, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self.burst, self._clock = per_minute, burst, clock
        self._full_at: dict[str, float] = {}
        """When the bucket of a name will be full again."""

    def wait_for(self, name: str) -> float:
        """Take one; gives 0, or the seconds until the next one may be taken, and takes none then."""
        if self.per_minute is None:
            return 0.0
        interval, now = 60.0 / self.per_minute, self._clock()
        full_at = max(self._full_at.get(name, now), now)
        wait = full_at + interval - now - self.burst * interval
        if wait > 1e-9:
            return wait
        if len(self._full_at) > 10_000:  # those that are full again need no memory
            self._full_at = {other: at for other, at in self._full_at.items() if at > now}
        self._full_at[name] = full_at + interval
        return 0.0
