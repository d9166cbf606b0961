"""The command line of every command: ``--config`` and ``--set``, and a help that reads well."""

from __future__ import annotations

import argparse
import textwrap

from setok.config import list_presets

_COLUMNS = 100


class Parser(argparse.ArgumentParser):
    """Its help begins with the docstring of the command's module.

    Args:
        command: what stands behind ``python -m``.
        doc: the docstring.
    """

    def __init__(self, command: str, doc: str | None) -> None:
        super().__init__(
            prog=f"python -m {command}",
            description=without_markup(doc),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._job: str | None = None
        self._takes_config = False

    def add_config(self, *, job: str | None = None, required: bool = True) -> None:
        """Give it ``--config`` and ``--set``, of which ``overrides_of`` gives the latter.

        Args:
            job: whose presets the help lists; ``None`` where the config may be any job's.
            required: whether ``--config`` must be given.
        """
        self._job, self._takes_config = job, True
        self.add_argument(
            "--config", required=required, metavar="NAME|FILE", help="a preset, of those below, or a YAML file"
        )
        self.add_argument(
            "--set",
            action="append",
            nargs="+",
            default=[],
            metavar="KEY=VALUE",
            help="change settings, for example --set name=mine seed=2; a dot leads into a section; may be repeated",
        )

    def format_help(self) -> str:
        """With the presets, for which all of them are read."""
        if self._takes_config:
            presets = f"presets: {', '.join(list_presets(self._job))}"
            self.epilog = textwrap.fill(presets, _COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
        return super().format_help()


def without_markup(doc: str | None) -> str:
    """A docstring as it is read in a terminal."""
    return (doc or "").replace("``", "`").replace("::\n", ":\n")


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """All that ``--set`` was given, in order."""
    return [override for group in arguments.set for override in group]
