"""Send a job to a cluster, follow its log, and end with its exit code.

    python -m ray_jobs.submit --address http://HEAD:8265 --config tokenizer --set output_dir=/shared/runs
    python -m ray_jobs.submit --config tokenizer --dry-run        # what would be sent, how large; nothing is
    python -m ray_jobs.submit --config tokenizer -- --verify /shared/runs/tokenizer

The config says which job it is (its key ``job:``); it is checked here, and travels complete with the code of the working
directory. Submitting again goes on with the run, and follows it where it is still running. Ctrl-C stops following, not the job.
Everything after ``--`` goes to the job's command.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from ray_jobs import launch
from ray_jobs.command_line import Parser, overrides_of
from ray_jobs.submitting import cluster
from ray_jobs.submitting.package import Package, collect, write_zip
from ray_jobs.submitting.paths import check_paths, with_paths_of_here
from ray_jobs.submitting.request import Request, environment_of
from setok.config import dump_config, load_any_config

NOT_FROM_A_CONFIG = ("doctor",)
"""Commands that take the config of any job, which ``--job`` asks for."""


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; ``further`` is what comes after ``--``."""
    own, further = list(argv), []
    if "--" in own:
        cut = own.index("--")
        own, further = own[:cut], own[cut + 1 :]
    parser = Parser("ray_jobs.submit", __doc__)
    parser.add_config()
    parser.add_argument(
        "--job", choices=NOT_FROM_A_CONFIG, help="run this with the config, instead of the job that the config names"
    )
    parser.add_argument(
        "--address",
        help="http://HEAD:8265 of the cluster; else RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or the Ray of this machine",
    )
    parser.add_argument("--working-dir", default=".", metavar="FOLDER", help="the code that travels (default: here)")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave files out, as a line of .gitignore does",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable of the job's processes, from here or as given; it can be read on the dashboard",
    )
    parser.add_argument("--python", default="python", help="interpreter on the head node (default: python)")
    parser.add_argument("--no-wait", action="store_true", help="send the job and stop")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and stop")
    arguments = parser.parse_args(own)
    arguments.further = further
    return arguments


def request_of(arguments: argparse.Namespace, *, here: Path) -> Request:
    """The job that a command line asks for, checked as far as can be from here.

    Raises:
        ConfigError: the config is wrong, or names paths that another machine does not have.
    """
    config = load_any_config(arguments.config, overrides_of(arguments))
    if cluster.is_here(arguments.address):
        config = with_paths_of_here(config, here)
    else:
        check_paths(config, here)
    return Request(
        job=arguments.job or type(config).model_fields["job"].default,
        config=config,
        arguments=tuple(arguments.further),
        environment=environment_of(arguments.env),
        python=arguments.python,
    )


def show(request: Request, package: Package) -> None:
    """Tell what is sent; of the environment the names only."""
    console = launch.console()
    console.print(f"[bold]run[/bold]          {request.run}")
    console.print(f"[bold]command[/bold]      {request.command}")
    console.print(f"[bold]environment[/bold]  {', '.join(sorted(request.environment))}")
    console.print(
        f"[bold]package[/bold]      {package.num_bytes / 1e6:,.1f} MB in {len(package.sizes):,} files of {package.folder}"
    )
    if package.links:
        told = f"{', '.join(package.links)}: symbolic links that lead out of the folder"
        console.print(f"[bold]left out[/bold]     {escape(told)}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = arguments_of(sys.argv[1:] if argv is None else argv)
    launch.set_ray_environment(joins=True)
    here = Path(arguments.working_dir).absolute()
    request = request_of(arguments, here=Path.cwd())
    package = collect(here, arguments.exclude)
    show(request, package)
    if arguments.dry_run:
        for name, size in package.largest():
            launch.console().print(f"{size / 1e6:10,.2f} MB  {name}")
        launch.console().print("Nothing was sent.")
        return
    client = cluster.connect(arguments.address)
    with tempfile.TemporaryDirectory(prefix="setok-submit-") as folder:
        path = Path(folder) / "package.zip"
        write_zip(package, dump_config(request.config), path)
        with cluster.explained(arguments.address):
            submission = cluster.submit(client, request, path)
    launch.console().print(
        f"[bold]submission[/bold]   {submission.id}" + ("" if submission.is_new else " is running already")
    )
    if arguments.no_wait:
        launch.console().print(_how_to_go_on(request, submission.id))
        return
    _follow(client, request, submission.id)


def _follow(client: cluster.Client, request: Request, name: str) -> None:
    """Show the log to its end, and leave with the job's exit code."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        code = cluster.follow(client, name, write)
    except KeyboardInterrupt:
        launch.error_console().print(f"\nNot following any more; {name} goes on. {_how_to_go_on(request, name)}")
        raise SystemExit(launch.EXIT_INTERRUPTED) from None
    if code == launch.EXIT_STOPPED:
        launch.error_console().print(f"{name} was stopped; the same command goes on with the run.", style="yellow")
    elif code:
        why = _reason(client.get_job_info(name).message or "")
        launch.error_console().print(f"{name} failed with exit code {code}. {why}", style="bold red", markup=False)
    raise SystemExit(code)


def _reason(message: str) -> str:
    """What Ray says of a job's end, without the log that it repeats: that has been followed."""
    first = next(iter(message.strip().splitlines()), "")
    return first.partition(", last available logs")[0]


def _how_to_go_on(request: Request, name: str) -> str:
    return (
        f"The same command follows it again; ray job stop {name} ends it, touch"
        f" {os.path.join(request.config.output_dir, request.config.name, 'stop')} lets a training run save first."
    )


if __name__ == "__main__":
    launch.run(main)
