"""Linux namespaces, for tests of clusters that must meet no other, or whose nodes have addresses of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

ALONE = ("unshare", "--pid", "--net", "--fork", "--kill-child", "--mount-proc")
"""A command's beginning that gives it process ids and a network of its own, and ends all that it started with it."""


def skip_unless_permitted() -> None:
    """Skip a test where namespaces cannot be made: no root, no tools, or a container that forbids it."""
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}, which is not installed")
    tried = subprocess.run([*ALONE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, timeout=30)
    if tried.returncode:
        pytest.skip(f"needs the right to make namespaces: {tried.stderr.strip() or tried.returncode}")


def in_mount_namespace(prepare: str, program: str) -> str:
    """What a Python program writes where something else is mounted, which nobody else sees; skips where that is not permitted.

    Args:
        prepare: shell command that mounts.
        program: the program.
    """
    skip_unless_permitted()
    command = ["unshare", "--mount", "sh", "-c", f'{prepare} || exit 99; exec "$0" -c "$1"', sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode == 99:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout
