"""Entry points: the only place that imports ray or deepspeed."""

from ray_jobs.interrupts import end_plainly, is_starting

if is_starting():  # a command: nowhere else is anything done by an import
    end_plainly()
