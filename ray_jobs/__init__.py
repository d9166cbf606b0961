"""Entry points: the only place that imports ray or deepspeed."""
