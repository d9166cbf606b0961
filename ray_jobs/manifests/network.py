"""Network policies: who reaches the ports of a Ray cluster at which any code can be run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray_jobs.manifests.house import RAY_PORTS
from ray_jobs.manifests.problems import Problem, join

_NAMED = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
"""As KubeRay calls them."""
_OPERATORS_PORT = 8265
_NAMESPACE_NAME = "kubernetes.io/metadata.name"


def problems(tree: dict[str, Any]) -> Iterator[Problem]:
    """What is open to others than the pods of the namespace, and for the Jobs API to the operator, whose namespace has a name."""
    spec = tree.get("spec") or {}
    if not is_about_ray(spec.get("podSelector") or {}):
        return
    if "Ingress" not in spec.get("policyTypes", ["Ingress"]):
        yield Problem(
            "spec.policyTypes", "what comes in is not limited, so that everyone reaches Ray's ports", "[Ingress]"
        )
    for number, rule in enumerate(spec.get("ingress") or []):
        opened = [port for port in RAY_PORTS if _opens(rule.get("ports") or [], port)]
        for who, may_be_operator in _outsiders(rule.get("from") or []):
            wrong = [port for port in opened if not (may_be_operator and port == _OPERATORS_PORT)]
            if wrong:
                said = " and ".join(f"port {port} ({RAY_PORTS[port]})" for port in wrong)
                yield Problem(join("spec.ingress", number), f"{said} is open to {who}",
                              "name the ports that it is about, or the pods in from: [{podSelector: {}}]")  # fmt: skip


def is_about_ray(selector: dict[str, Any]) -> bool:
    """Whether a selector takes all pods, or tells them by labels of Ray's."""
    keys = [
        *(selector.get("matchLabels") or {}),
        *(entry.get("key", "") for entry in selector.get("matchExpressions") or ()),
    ]
    return not keys or any(str(key).startswith("ray") for key in keys)


def _opens(ports: list[dict[str, Any]], port: int) -> bool:
    """Whether a rule's ports, all where it names none, hold this one."""
    if not ports:
        return True
    for entry in ports:
        first = _NAMED.get(entry.get("port"), entry.get("port"))  # type: ignore[arg-type]
        if first is None or (isinstance(first, int) and first <= port <= int(entry.get("endPort", first))):
            return True
    return False


def _outsiders(peers: list[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Who is let in besides the namespace's own pods, and whether it is one namespace that is called by its name."""
    if not peers:
        yield "everyone", False
    for peer in peers:
        if "ipBlock" in peer:
            yield f"the addresses {(peer['ipBlock'] or {}).get('cidr')}", False
        elif "namespaceSelector" in peer:
            labels = (peer["namespaceSelector"] or {}).get("matchLabels") or {}
            name = labels.get(_NAMESPACE_NAME)
            yield (f"the namespace {name}", True) if name else ("pods of other namespaces", False)
