"""What a run needs before it is started: memory, time, data, money, and whether a cluster can run it.

``trace`` goes through a step of the run's own modules without memory; ``estimate`` puts it on a cluster described by
``hardware``, and ``suggest`` looks for the smallest change with which it fits.
"""

from setok.planning.batches import Samples
from setok.planning.describing import Part, describe
from setok.planning.estimate import Estimate, estimate
from setok.planning.hardware import GIB, Cluster, Hardware, NodeType, load_hardware, parse_nodes, this_machine
from setok.planning.memory import WorkerMemory, worker_memory
from setok.planning.search import Suggestion, Traces, suggest
from setok.planning.serving import ServingMemory, serving_fits, serving_memory
from setok.planning.trace import Trace, trace

__all__ = [
    "GIB",
    "Cluster",
    "Estimate",
    "Hardware",
    "NodeType",
    "Part",
    "Samples",
    "ServingMemory",
    "Suggestion",
    "Trace",
    "Traces",
    "WorkerMemory",
    "describe",
    "estimate",
    "load_hardware",
    "parse_nodes",
    "serving_fits",
    "serving_memory",
    "suggest",
    "this_machine",
    "trace",
    "worker_memory",
]
