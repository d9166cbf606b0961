"""Pickles of plain data come back; everything else is refused by name, and nothing in it has run."""

from __future__ import annotations

import copyreg
import os
import pickle
from collections import OrderedDict
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setok.data.plain_pickle import load, loads
from setok.errors import DataError

_leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_keys = st.integers() | st.text() | st.tuples(st.integers(), st.text())
plain = st.recursive(
    _leaves,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(_keys, inner),
    max_leaves=30,
)


@given(plain, st.integers(0, 5))
def test_plain_data_comes_back(value: Any, protocol: int) -> None:
    assert loads(pickle.dumps(value, protocol)) == value


@given(st.sets(st.integers()), st.frozensets(st.text()), st.binary())
def test_sets_and_bytes_of_the_newer_protocols(numbers: set[int], words: frozenset[str], data: bytes) -> None:
    assert loads(pickle.dumps([numbers, words, data], 4)) == [numbers, words, data]
    assert loads(pickle.dumps(bytearray(data), 5)) == bytearray(data)


def test_text_of_python_2() -> None:
    assert loads(b"(dp0\nS'sent'\np1\nS'caf\\xc3\\xa9'\np2\ns.") == {"sent": "café"}
    assert loads(b"(lp0\nS'caf\\xe9'\np1\naVna\xefve\np2\na.") == ["café", "naïve"]
    assert loads(b"(lp0\nI01\naL5L\naF0.5\na.") == [True, 5, 0.5]


class _Calls:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
def test_a_call_of_os_system_is_refused_by_name(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    data = pickle.dumps([1, _Calls(os.system, (f"touch {trace}",))], protocol)
    with pytest.raises(DataError, match=rf"it names {os.system.__module__}\.system, which is not plain data\n.*JSON"):
        loads(data)
    assert not trace.exists()
    pickle.loads(data)
    assert trace.exists(), "the attack itself works"


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (b"(S'touch TRACE'\nios\nsystem\n.", "os.system"),  # INST
        (b"cos\nsystem\n(S'touch TRACE'\ntR.", "os.system"),  # GLOBAL and REDUCE
        (b"(cos\nsystem\nS'touch TRACE'\no.", "os.system"),  # OBJ
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0btouch TRACE\x85R.", "os.system"),  # STACK_GLOBAL
        (b"\x80\x02cbuiltins\nobject\n)\x81}S'x'\nI1\nsb.", "builtins.object"),  # NEWOBJ and BUILD
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"c__builtin__\nset\n(]tR.", "__builtin__.set"),
        (b"cos.path\njoin\n.", "os.path.join"),
        (b"Pobject-7\n.", "persistent id 'object-7'"),
        (b"\x80\x02X\x05\x00\x00\x00thingQ.", "persistent id 'thing'"),
    ],
)
def test_hand_written_attacks(attack: bytes, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"pickle refused: it (names|has the) {named}"):
        loads(attack)
    assert not list(tmp_path.iterdir())


def test_an_extension_that_the_process_already_uses(tmp_path: Path) -> None:
    """Its object lies in a cache, and pickle takes it from there without asking ``find_class``."""
    module, trace = os.system.__module__, tmp_path / "ran"
    copyreg.add_extension(module, "system", 77)
    try:
        data = pickle.dumps(_Calls(os.system, (f"touch {trace}",)), 2)
        pickle.loads(data)
        trace.unlink()
        with pytest.raises(DataError, match="it has the extension code 77, not plain data"):
            loads(data)
        assert not trace.exists()
    finally:
        copyreg.remove_extension(module, "system", 77)


def test_bytes_that_look_like_extension_codes_are_text() -> None:
    value = {"\x82\x83\x84": ["\u0082"], "data": b"\x82"}
    assert loads(pickle.dumps(value, 4)) == value


@pytest.mark.parametrize("value", [date(2024, 1, 1), OrderedDict(a=1), 1j, range(3), Path("x"), DataError])
def test_harmless_classes_are_refused_as_well(value: Any) -> None:
    with pytest.raises(DataError, match=r"it names .*, which is not plain data"):
        loads(pickle.dumps(value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"(lp0\nI1\n",
        b"\x80\x04N",
        b"R.",
        b"I1\n(I2\nto.",
        b"(dp0\nI1\n}b.",
        b"not a pickle",
        b"\x84",
        b"\x80\x63.",
    ],
)
def test_damaged_pickles(data: bytes) -> None:
    with pytest.raises(DataError, match=r"pickle is damaged: .+\n"):
        loads(data)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "refs(unc).p"
    with pytest.raises(DataError, match=r"refs\(unc\).p cannot be read"):
        load(path)
    path.write_bytes(pickle.dumps([1, "two"], 0))
    assert load(path) == [1, "two"]
    size = path.stat().st_size
    with pytest.raises(DataError, match=rf"refs\(unc\).p: pickle refused: {size} bytes, at most {size - 1} are read"):
        load(path, max_bytes=size - 1)
    path.write_bytes(b"cos\nsystem\n.")
    with pytest.raises(DataError, match=r"refs\(unc\).p: pickle refused: it names os.system"):
        load(path)


@pytest.mark.parametrize("name", ["refcoco/refs(unc).p", "refcoco+/refs(unc).p", "refcocog/refs(umd).p"])
def test_real_files(realdata: Path, name: str) -> None:
    refs = load(realdata / "refer" / "data" / name)
    assert refs == pickle.loads((realdata / "refer" / "data" / name).read_bytes())
    assert len(refs) >= 15
