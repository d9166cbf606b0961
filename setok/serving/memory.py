"""How glibc keeps memory that is freed, in a process whose model asks for the same sizes again and again."""

from __future__ import annotations

import ctypes

# From malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> bool:
    """Give freed memory back to the system only where it is much, and let all threads share one pool; before threads are started.

    By default what a step frees goes back at its end, and the next one asks for it again: the system fills every page with zeros,
    for hundreds of pages an answer. Other libraries than glibc are left as they are.

    Returns:
        Whether it was done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # 32 MiB is the most that glibc takes for the second.
    wanted = {_TRIM_THRESHOLD: 2**30, _MMAP_THRESHOLD: 2**25, _ARENA_MAX: 1}
    done = [mallopt(name, value) for name, value in wanted.items()]
    return all(done)
