"""The cluster that is running, as plans see it."""

from __future__ import annotations

from collections import Counter

from setok.errors import ConfigError
from setok.planning import GIB, Cluster, Hardware, NodeType


def running_cluster(hardware: Hardware) -> Cluster:
    """The nodes of the Ray that this process has joined; GPUs have the table's figures where their names are known to it.

    Raises:
        ConfigError: a node has GPUs that the table does not know.
    """
    import ray

    found: Counter[NodeType] = Counter()
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU", 0) > 0:
            found[node_type(node["Resources"], hardware)] += 1
    return Cluster(
        nodes=tuple((f"node of {kind.cpus:g} CPUs", kind, count) for kind, count in found.items()), has_prices=False
    )


def node_type(resources: dict[str, float], hardware: Hardware) -> NodeType:
    """A node by the resources that Ray has of it."""
    cpus, memory = resources["CPU"], (resources.get("memory", 0) + resources.get("object_store_memory", 0)) / GIB
    gpus = int(resources.get("GPU", 0))
    if not gpus:
        return NodeType(cpus=cpus, memory_gib=memory)
    names = [name.removeprefix("accelerator_type:") for name in resources if name.startswith("accelerator_type:")]
    known = {kind.gpu: kind for kind in hardware.nodes.values() if kind.gpu}
    match = next((known[name] for name in names if name in known), None)
    if match is None:
        raise ConfigError(
            f"a node has {gpus} GPU(s) of type {', '.join(names) or 'unknown'}, which the table does not know",
            f"add a node type with such a gpu to a copy of the table (--prices); it knows {', '.join(known)}",
        )
    return match.model_copy(update={"gpus": gpus, "cpus": cpus, "memory_gib": memory})
