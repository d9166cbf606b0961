"""Keys and rates."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setok.config import AccessConfig
from setok.errors import ConfigError
from setok.serving.keys import ApiKeys, RateLimit, new_key


def test_keys_of_the_file_and_of_the_environment_are_let_in(tmp_path: Path) -> None:
    made = {name: new_key(name) for name in ("ann", "bob", "cy")}
    file = tmp_path / "keys.txt"
    file.write_text(f"# the team\n{made['ann'][1]}  # since May\n\n{made['bob'][1]}\n")
    keys = ApiKeys.load(AccessConfig(keys_file=str(file)), {"SETOK_API_KEYS": f"{made['cy'][1]},"})
    assert len(keys) == 3
    for name, (key, line) in made.items():
        assert keys.name_of(key) == name
        assert key not in line
        assert keys.name_of(line) is None
        assert keys.name_of(key + "x") is None
    assert keys.name_of("") is None
    assert keys.name_of("\udcff") is None
    assert len({key for key, _ in made.values()}) == 3
    assert len(ApiKeys.load(AccessConfig(), {})) == 0


def test_a_line_that_is_none_is_named_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    key, line = new_key("ann")
    file.write_text(f"{line}\nbob {key}\n")
    with pytest.raises(ConfigError, match=r"line 2 of the keys in .*keys.txt(.|\n)*--new-key") as error:
        ApiKeys.load(AccessConfig(keys_file=str(file)), {"SETOK_API_KEYS": ""})
    assert key not in str(error.value)
    with pytest.raises(ConfigError, match=r"line 3 of the keys in \$SETOK_API_KEYS is none"):
        ApiKeys.load(AccessConfig(), {"SETOK_API_KEYS": f"{line},{line},{key}"})
    with pytest.raises(ConfigError, match=r"cannot be read(.|\n)*--new-key NAME"):
        ApiKeys.load(AccessConfig(keys_file=str(tmp_path / "none")), {})
    with pytest.raises(ConfigError, match=r"'a b' cannot name a key"):
        new_key("a b")


def test_a_digest_is_that_of_the_key() -> None:
    key, line = new_key("ann")
    assert line == f"ann sha256:{hashlib.sha256(key.encode()).hexdigest()}"


@given(
    st.integers(1, 600),
    st.integers(1, 10),
    st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_never_more_than_a_burst_and_the_rate(per_minute: int, burst: int, pauses: list[float]) -> None:
    """Against what it means: in any stretch of time t at most burst + rate · t are let in."""
    now = 0.0
    limit = RateLimit(per_minute, burst, clock=lambda: now)
    let_in: list[float] = []
    for pause in pauses:
        now += pause
        wait = limit.wait_for("ann")
        if not wait:
            let_in.append(now)
            continue
        assert wait > 0
        now += wait
        assert limit.wait_for("ann") == 0.0, "after the wait it is let in"
        let_in.append(now)
    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            allowed = burst + (let_in[last] - let_in[first]) * per_minute / 60
            assert last - first + 1 <= allowed + 1e-6


def test_names_do_not_share_their_rate_and_none_is_no_limit() -> None:
    limit = RateLimit(1, 2, clock=lambda: 0.0)
    assert [limit.wait_for("ann") for _ in range(2)] == [0.0, 0.0]
    assert limit.wait_for("ann") == pytest.approx(60.0)
    assert limit.wait_for("bob") == 0.0
    free = RateLimit(None, 1, clock=lambda: 0.0)
    assert not any(free.wait_for("ann") for _ in range(100))


def test_names_that_are_gone_are_forgotten() -> None:
    now = 0.0
    limit = RateLimit(60, 1, clock=lambda: now)
    for number in range(10_001):
        limit.wait_for(str(number))
    now = 100.0
    limit.wait_for("last")
    assert len(limit._full_at) == 1
