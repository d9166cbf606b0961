"""What things cost on this machine.

python -m ray_jobs.benchmark tokenizer --size demo --batch 8,16 --repeats 7
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ray_jobs import launch
from ray_jobs.benchmarks import faults, ingest, serve, tokenizer, training

BENCHMARKS = {
    "tokenizer": (
        "encoder, clustering and merger against the bare encoder and a plain loop",
        tokenizer,
        tokenizer.tokenizer,
    ),
    "ingest": (
        "photographs decoded for training, against a torch DataLoader and bare decoding",
        ingest,
        ingest.ingest,
    ),
    "training": ("a step of the training loop, beside one written by hand", training, training.training),
    "faults": (
        "training runs broken in every way we know, against one that nothing happened to",
        faults,
        faults.faults,
    ),
    "serve": ("the server under load, beside a bare predictor", serve, serve.serve),
}
"""What each measures, its module, which has ``add_arguments``, and what runs it."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m ray_jobs.benchmark", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (what, module, run) in BENCHMARKS.items():
        benchmark = commands.add_parser(name, help=what, description=module.__doc__, formatter_class=raw)
        module.add_arguments(benchmark)
        benchmark.set_defaults(run=run)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


if __name__ == "__main__":
    launch.run(main)
