"""A node on which all is well, and how the findings of a check are read."""

from __future__ import annotations

from dataclasses import replace

from ray_jobs.checking import findings
from ray_jobs.checking.findings import Check, Finding
from ray_jobs.checking.machine import Facts

GIB = 2**30
GOOD = Facts(
    node="node-0",
    cpus=8,
    gpus=("H100", "H100"),
    driver="570.1",
    torch_cuda="12.8",
    shared_bytes=16 * GIB,
    disks={"/tmp": (500 * GIB, 300 * GIB)},
    open_files=65536,
    python="3.11.9",
    versions={"torch": "2.13.0", "ray": "2.60.0"},
)


def patient(check: Check) -> list[Finding]:
    """The findings, however busy this machine is."""
    return findings.run(replace(check, seconds=250.0))


def only(found: list[Finding], status: str) -> Finding:
    """The one finding there is, of this status, with a remedy unless it is ok."""
    (one,) = found
    assert one.status == status, one
    assert bool(one.remedy) == (status != "ok"), one
    return one
