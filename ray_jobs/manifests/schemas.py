"""Strict schemas: of Kubernetes objects from KubeRay's CRDs, of cloud machines from the clouds' own clients.

A CRD says what is known, not that anything else is wrong: the API server drops unknown keys unless it is asked to be strict. Here
they are refused. What a CRD embeds of Kubernetes itself (claims, network policies) serves for the plain objects.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import yaml

METADATA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}
_RAY_KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
_POD = ("headGroupSpec", "template", "spec")


@functools.cache
def of_kubernetes(crds: Path) -> dict[str, Any]:
    """A validator for each kind, from a folder with KubeRay's three CRDs (``*rayclusters*.yaml``, may be gzipped).

    Raises:
        FileNotFoundError: the folder lacks one.
    """
    schemas = {kind: strict(_crd(crds, name)) for kind, name in _RAY_KINDS.items()}
    cluster = schemas["RayCluster"]["properties"]["spec"]
    claim = _down(cluster, *_POD, "volumes", "ephemeral", "volumeClaimTemplate", "spec")
    rule = _down(cluster, "networkPolicy", "head", "ingressRules")
    selector = _down(rule, "from", "podSelector")
    schemas["PersistentVolumeClaim"] = _plain({"spec": claim})
    schemas["ServiceAccount"] = _plain({})
    schemas["NetworkPolicy"] = _plain(
        {
            "spec": {
                "type": "object",
                "additionalProperties": False,
                "required": ["podSelector"],
                "properties": {
                    "podSelector": selector,
                    "policyTypes": {"type": "array", "items": {"enum": ["Ingress", "Egress"]}},
                    "ingress": {"type": "array", "items": rule},
                    "egress": {"type": "array", "items": _down(cluster, "networkPolicy", "head", "egressRules")},
                },
            }
        }
    )
    for schema in schemas.values():
        schema["properties"]["metadata"] = METADATA
    return {kind: jsonschema.Draft7Validator(schema) for kind, schema in schemas.items()}


def _crd(folder: Path, name: str) -> Any:
    files = sorted(folder.glob(f"*{name}*.yaml*"))
    if not files:
        raise FileNotFoundError(2, f"no *{name}*.yaml among KubeRay's CRDs", str(folder))
    data = gzip.decompress(files[-1].read_bytes()) if files[-1].suffix == ".gz" else files[-1].read_bytes()
    tree = yaml.load(data, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return next(v["schema"]["openAPIV3Schema"] for v in tree["spec"]["versions"] if v["name"] == "v1")


def strict(schema: Any) -> Any:
    """The same schema with objects closed where their keys are listed, and Kubernetes' own words told in those of JSON schema."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if (
        closed.get("type") == "object"
        and "properties" in closed
        and not closed.get("x-kubernetes-preserve-unknown-fields")
    ):
        closed.setdefault("additionalProperties", False)
    if closed.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return closed


def _down(schema: Any, *keys: str) -> Any:
    """The schema of what lies at a path, through lists."""
    for key in keys:
        schema = schema["properties"][key]
        schema = schema.get("items", schema)
    return schema


def _plain(properties: dict[str, Any]) -> dict[str, Any]:
    known = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, **properties}
    return {"type": "object", "additionalProperties": False, "required": [*known, "metadata"], "properties": known}


@functools.cache
def of_gcp_instance() -> Any | None:
    """A validator of Compute Engine's ``Instance``, from the API description in Google's client; ``None`` without it."""
    if importlib.util.find_spec("googleapiclient") is None:
        return None
    from googleapiclient import discovery_cache

    folder = Path(str(discovery_cache.__file__)).parent / "documents"
    described = json.loads((folder / "compute.v1.json").read_text("utf-8"))["schemas"]
    definitions = {name: _from_discovery(schema) for name, schema in described.items()}
    return jsonschema.Draft7Validator({"$ref": "#/definitions/Instance", "definitions": definitions})


def _from_discovery(schema: dict[str, Any]) -> dict[str, Any]:
    """Google's description language (a draft 3 of its own) in that of JSON schema."""
    if "$ref" in schema:
        return {"$ref": f"#/definitions/{schema['$ref']}"}
    if schema.get("format") in ("int64", "uint64"):  # written as strings, and taken as numbers too
        return {"type": ["string", "integer"]}
    told: dict[str, Any] = {"type": schema["type"]} if schema.get("type", "any") != "any" else {}
    if "enum" in schema:
        told["enum"] = schema["enum"]
    if "items" in schema:
        told["items"] = _from_discovery(schema["items"])
    if "properties" in schema:
        told["properties"] = {key: _from_discovery(value) for key, value in schema["properties"].items()}
        told["additionalProperties"] = False
    elif "additionalProperties" in schema:
        told["additionalProperties"] = _from_discovery(schema["additionalProperties"])
    return told


@functools.cache
def of_aws_instance() -> Any | None:
    """Shape of EC2's ``RunInstances``, from the API description in AWS's client; ``None`` without it."""
    if importlib.util.find_spec("botocore") is None:
        return None
    import botocore.session

    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
