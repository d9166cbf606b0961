"""Whether files that describe clusters are right, found out before anything is started: those of ``cluster/``, or adapted copies.

Neither ``ray up`` nor ``kubectl apply`` tells all of it: the launcher does not look into ``node_config`` before it rents
machines, Kubernetes drops what it does not know, and nobody else knows our commands.
"""

from __future__ import annotations

from ray_jobs.manifests.checking import Report, check_files
from ray_jobs.manifests.problems import Problem

__all__ = ["Problem", "Report", "check_files"]
