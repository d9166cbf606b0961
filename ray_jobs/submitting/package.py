"""The working directory of a job: which files travel, and how they are packed.

What ``.gitignore`` and ``.rayignore`` leave out stays at home, in the reading of Ray itself, so that this sends what
``ray job submit --working-dir`` would, without what nobody wants on a cluster.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from setok.errors import ConfigError

MOST_BYTES = 100_000_000
"""A larger directory holds data or weights by mistake; Ray itself stops at 512 MiB, after minutes."""
NUM_NAMED = 10
LEAST_NAMED_BYTES = 1_000_000
"""Smaller files are not what makes a package too large, unless there are only such."""
CONFIG = "submitted.yaml"
"""The job's complete config, beside the code."""
EXCLUDES = (
    *(".git", ".venv", ".venv-*", "venv", "__pycache__", "*.egg-info", "node_modules"),
    *(".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints"),
    *("/runs", "/data", "/wandb", "/build", "/dist"),
    # Secrets: what travels can be read by everyone on the cluster.
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.jks"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".ssh", ".aws", ".gnupg", ".kube", ".docker"),
    *("credentials", "credentials.json", ".netrc", ".pypirc", ".npmrc", ".git-credentials", "auth_token"),
)
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""A file's time is no part of what it holds: the same files make the same package, which Ray then has already."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """Files that travel."""

    folder: Path
    sizes: dict[str, int]
    """Bytes by name below the folder, sorted by name."""
    links: tuple[str, ...] = ()
    """Symbolic links that lead out of the folder: what is behind them stays at home."""

    @property
    def num_bytes(self) -> int:
        return sum(self.sizes.values())

    def largest(self, count: int = NUM_NAMED) -> list[tuple[str, int]]:
        """The largest files and their bytes."""
        return sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))[:count]


def collect(folder: Path, excludes: Sequence[str] = ()) -> Package:
    """Find the files of a working directory that travel.

    Args:
        folder: the working directory.
        excludes: patterns as in ``.gitignore``, besides those of the ignore files and ``EXCLUDES``.

    Raises:
        ConfigError: there is no such folder, nothing is left of it, or it is over ``MOST_BYTES``; then the largest files
            are named.
    """
    from ray._private.runtime_env import packaging

    if not folder.is_dir():
        raise ConfigError(f"the working directory {folder} is no folder", "--working-dir FOLDER, with the code in it")
    sizes: dict[str, int] = {}
    links: list[Path] = []
    root = folder.resolve()

    def note(path: Path) -> None:
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            links.append(path)
        elif path.is_file() and not any(path.is_relative_to(link) for link in links):
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size

    quiet = logging.getLogger(f"{__name__}.ignored")  # names every ignore file at INFO
    quiet.setLevel(logging.WARNING)
    left_out = packaging._get_excludes(folder, [*EXCLUDES, *excludes])
    packaging._dir_travel(folder, [left_out], note, include_gitignore=True, logger=quiet)
    sizes.pop(CONFIG, None)
    outward = tuple(sorted(link.relative_to(folder).as_posix() for link in links))
    package = Package(folder=folder, sizes=dict(sorted(sizes.items())), links=outward)
    if not sizes:
        raise ConfigError(f"no file of {folder} would travel", "start in the folder of the code, or say --working-dir")
    if package.num_bytes > MOST_BYTES:
        largest = package.largest()
        large = [(name, size) for name, size in largest if size >= LEAST_NAMED_BYTES] or largest
        named = "\n".join(f"  {size / 1e6:10,.1f} MB  {name}" for name, size in large)
        raise ConfigError(
            f"{folder} has {package.num_bytes / 1e6:,.1f} MB in {len(sizes):,} files, and {MOST_BYTES / 1e6:.0f} MB may"
            f" travel; the largest:\n{named}",
            "leave them out with --exclude PATTERN, .rayignore or .gitignore; data and weights belong on storage that all"
            " nodes see",
        )
    return package


def write_zip(package: Package, config: str, path: Path) -> None:
    """Pack the files, and the config as ``submitted.yaml``; the same contents give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in package.sizes:
            _add(archive, name, (package.folder / name).read_bytes())
        _add(archive, CONFIG, config.encode())


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _LONG_AGO)
    info.external_attr = 0o644 << 16
    archive.writestr(info, data, zipfile.ZIP_DEFLATED)
