"""Ray Data as all jobs use it: its settings, and what its tasks raise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setok.errors import SetokError

if TYPE_CHECKING:  # this module is imported by data workers
    import ray.data

MAX_BLOCK_BYTES = 128 * 2**20
"""Ray Data cuts larger blocks in pieces, and then they no longer go round the ranks in turn."""


def data_context() -> ray.data.DataContext:
    """A copy of Ray Data's settings for our jobs: ordered, quiet, no watchdog on pauses, and no block given up."""
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_no_progress_timeout_s = -1  # a long evaluation or checkpoint is no reason to end a run
    context.max_errored_blocks = 0
    context.target_max_block_size = MAX_BLOCK_BYTES
    context.raise_original_map_exception = True  # else Ray hands on the text of an error, not the error
    return context


def setok_error(error: BaseException | None) -> SetokError | None:
    """The error of ours inside what Ray raises for a failed task or actor, if there is one."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "cause", None)  # of a RayTaskError, which also poses as an instance of its cause's class
        if inner is None and isinstance(error, SetokError):
            return error
        error = inner or error.__cause__
    return None
