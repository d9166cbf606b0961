"""The config of Ray Serve that ships: Serve takes it, and it builds the application that it names."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def deployed(repo_root: Path) -> dict[str, Any]:
    tree = yaml.safe_load((repo_root / "cluster" / "serve.yaml").read_text())
    assert isinstance(tree, dict)
    return tree


def test_serve_takes_it(deployed: dict[str, Any]) -> None:
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(deployed)
    assert [application.name for application in schema.applications] == ["setok"]


def test_it_builds_an_ingress_and_replicas_with_its_settings(deployed: dict[str, Any], tmp_path: Path) -> None:
    (application,) = deployed["applications"]
    module, _, name = application["import_path"].partition(":")
    keys = tmp_path / "keys.txt"
    keys.write_text(f"ann sha256:{'0' * 64}\n")
    application["args"]["set"]["access.keys_file"] = str(keys)
    built = getattr(importlib.import_module(module), name)(application["args"])
    ingress = built._bound_deployment
    config, digests, model = ingress.init_args
    assert digests == {"ann": "0" * 64}
    assert config.checkpoint == "/shared/exports/my-setokim"
    assert (config.replicas.min, config.replicas.max, config.replicas.gpus) == (1, 4, 1.0)
    scaled = model._bound_deployment
    assert scaled.ray_actor_options["num_gpus"] == 1.0
    assert scaled._deployment_config.autoscaling_config.max_replicas == 4
    assert scaled._deployment_config.max_queued_requests == config.batching.max_waiting
    for updated in (ingress, scaled):  # the old ones answer until the new ones do
        assert updated._deployment_config.max_surge_percent == config.replicas.max_surge_percent > 0
