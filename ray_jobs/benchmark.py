"""What things cost on this machine.

python -m ray_jobs.benchmark tokenizer --size demo --batch 8,16 --repeats 7
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ray_jobs import launch
from ray_jobs.benchmarks import faults as benchmark_faults
from ray_jobs.benchmarks import ingest as benchmark_ingest
from ray_jobs.benchmarks import serve as benchmark_serve
from ray_jobs.benchmarks import tokenizer as benchmark_tokenizer


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    tokenizer = commands.add_parser(
        "tokenizer",
        help="encoder, clustering and merger against the bare encoder and a plain loop",
        description=benchmark_tokenizer.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmark_tokenizer.add_arguments(tokenizer)
    tokenizer.set_defaults(run=benchmark_tokenizer.tokenizer)
    ingest = commands.add_parser(
        "ingest",
        help="photographs decoded for training, against a torch DataLoader and bare decoding",
        description=benchmark_ingest.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmark_ingest.add_arguments(ingest)
    ingest.set_defaults(run=benchmark_ingest.ingest)
    faults = commands.add_parser(
        "faults",
        help="training runs broken in every way we know, against one that nothing happened to",
        description=benchmark_faults.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmark_faults.add_arguments(faults)
    faults.set_defaults(run=benchmark_faults.faults)
    serve = commands.add_parser(
        "serve",
        help="the server under load, beside a bare predictor",
        description=benchmark_serve.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmark_serve.add_arguments(serve)
    serve.set_defaults(run=benchmark_serve.serve)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


if __name__ == "__main__":
    launch.run(main)
