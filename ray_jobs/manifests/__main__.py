"""Checks files that describe clusters, without starting anything.

    python -m ray_jobs.manifests cluster
    python -m ray_jobs.manifests --ready my-cluster.yaml

Every problem is told with its place and its remedy; the exit code is 2 where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from ray_jobs import launch
from ray_jobs.command_line import Parser
from ray_jobs.manifests.checking import Report, check_files
from setok.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> None:
    """The command.

    Raises:
        ConfigError: something is wrong with a file; all that is was printed before.
    """
    parser = Parser("ray_jobs.manifests", __doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="files, or folders such as cluster")
    parser.add_argument(
        "--crds", type=Path, metavar="FOLDER", help="with KubeRay's CRDs, for the schema of its objects"
    )
    parser.add_argument("--ready", action="store_true", help="also refuse what is still to be filled in")
    arguments = parser.parse_args(argv)
    report = check_files(arguments.paths, root=Path(), crds=arguments.crds)
    show(report, ready=arguments.ready)
    wrong = len(report.problems) + (len(report.unfilled) if arguments.ready else 0)
    if wrong:
        raise ConfigError(f"{wrong} problem(s) in {len(report.files)} file(s)", "each has its remedy above")


def show(report: Report, *, ready: bool) -> None:
    """Print what came out; where something is still to be filled in only for a file that is to be ready."""
    console = launch.console()
    for problem in (*report.problems, *(report.unfilled if ready else ())):
        console.print(Text(str(problem), style="red"))
    for what in report.not_checked:
        console.print(Text(f"not checked: {what}", style="yellow"))
    console.print(
        f"{len(report.files)} files, {len(report.problems)} problems, {len(report.unfilled)} places to fill in"
    )


if __name__ == "__main__":
    launch.run(main)
