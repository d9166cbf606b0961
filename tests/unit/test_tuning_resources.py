"""Trials never ask for more room together than there is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.tuning.resources import LOOK_AFTER, Resources, bundles_of, most_at_a_time, num_that_fit, own_resources
from setok.errors import ConfigError
from tests.fakes import train_config

SIZES = st.sampled_from([0.5, 1.0, 2.0])


def fits_somehow(nodes: Sequence[float], bundles: Sequence[float]) -> bool:
    """By trying every way to place the bundles."""
    for places in itertools.product(range(len(nodes)), repeat=len(bundles)):
        used = [0.0] * len(nodes)
        for place, bundle in zip(places, bundles, strict=True):
            used[place] += bundle
        if all(u <= n for u, n in zip(used, nodes, strict=True)):
            return True
    return not bundles


@given(
    nodes=st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=3),
    bundles=st.lists(SIZES, min_size=1, max_size=3),
)
@settings(max_examples=150)
def test_what_is_promised_can_be_placed(nodes: list[float], bundles: list[float]) -> None:
    count = num_that_fit([{"CPU": node} for node in nodes], [{"CPU": one} for one in bundles])
    assert fits_somehow(nodes, bundles * count) if len(nodes) ** (len(bundles) * count) < 50_000 else True
    assert count * sum(bundles) <= sum(nodes)
    if len(nodes) == 1:
        assert count == int(nodes[0] / sum(bundles))


def test_a_trial_on_ray_train_counts_workers_decoders_and_evaluations() -> None:
    config = train_config(
        scaling__num_workers=2, scaling__cpus_per_worker=0.5, data__decode_workers=2, validation__data="heldout"
    )
    assert own_resources(config) == {"CPU": LOOK_AFTER}
    assert sum(bundle["CPU"] for bundle in bundles_of(config)) == pytest.approx(2 * 0.5 + 2 * 0.5 + 0.5 + LOOK_AFTER)
    assert most_at_a_time(config, [{"CPU": 8.0}]) == 3
    assert most_at_a_time(config, [{"CPU": 2.1}]) == 1, "where evaluations have no room beside it they come after it"


def test_a_trial_in_one_process_takes_all_itself() -> None:
    config = train_config(scaling__num_workers=0, scaling__cpus_per_worker=1, validation__data="heldout")
    assert bundles_of(config) == [own_resources(config)] == [{"CPU": 1.0}]
    assert most_at_a_time(config, [{"CPU": 2.0, "memory": 9.0}]) == 2


def test_gpus_count_too_and_nodes_are_not_added_up() -> None:
    config = train_config(scaling__num_workers=1, scaling__use_gpu=True, scaling__cpus_per_worker=2)
    gpu: Resources = {"CPU": 3.0, "GPU": 2.0}
    assert most_at_a_time(config, [gpu, gpu]) == 2, "two GPUs a node, but CPUs for one worker each"


@pytest.mark.parametrize("workers", [0, 4])
def test_a_cluster_without_room_is_refused(workers: int) -> None:
    config = train_config(
        scaling__num_workers=workers, scaling__cpus_per_worker=4, train__micro_batch_size=1, train__global_batch_size=8
    )
    with pytest.raises(
        ConfigError, match=r"a trial needs .* CPUs, and the cluster has 2 CPUs\n.*cpus_per_worker"
    ) as refused:
        most_at_a_time(config, [{"CPU": 2.0}])
    assert ("num_workers=0" in str(refused.value)) == (workers > 0)


def test_a_trial_that_may_have_fewer_workers_needs_room_for_those_only() -> None:
    config = train_config(scaling__num_workers=[1, 2], scaling__cpus_per_worker=1, data__decode_cpus=0.5)
    assert most_at_a_time(config, [{"CPU": 2.0}]) == 1
    assert most_at_a_time(config, [{"CPU": 8.0}]) == 3
    with pytest.raises(ConfigError, match=r"a trial needs 1.51 CPUs"):
        most_at_a_time(config, [{"CPU": 1.0}])
