"""Processes that are started deaf to Ctrl-C."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor

import pytest

from setok.children import deaf_to_interrupts


def hears() -> bool:
    return signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_only_what_is_started_in_the_block_is_deaf() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with deaf_to_interrupts():
            heard = pool.submit(hears)
        assert hears() and not heard.result()
        assert not pool.submit(hears).result(), "what runs there later, too"
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(hears).result()


def test_an_exception_leaves_no_deafness() -> None:
    with pytest.raises(KeyboardInterrupt), deaf_to_interrupts():
        raise KeyboardInterrupt
    assert hears()
