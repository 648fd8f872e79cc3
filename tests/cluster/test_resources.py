from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.cluster import resources
from datagen.cluster.resources import Node, fits, local_gpus, plan, this_machine
from datagen.step import Resources

GIB = 1 << 30

wants = st.builds(
    Resources,
    cpus=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    gpus=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]),
    memory=st.sampled_from([0, GIB, 4 * GIB]),
    workers=st.sampled_from([0, 1, 3]),
)
nodes = st.lists(
    st.builds(
        Node,
        cpus=st.integers(1, 9).map(float),
        gpus=st.integers(0, 3).map(float),
        memory=st.sampled_from([2 * GIB, 8 * GIB]),
    ),
    min_size=1,
    max_size=3,
)


def placed(asked: Resources, on: list[Node]) -> int:
    """Workers that fit, by putting one after the other on the devices of each node."""
    count = 0
    for node in on:
        cpus, memory, devices = node.cpus, node.memory, [1.0] * int(node.gpus)
        while cpus >= asked.cpus and memory >= asked.memory:
            if 0 < asked.gpus < 1:
                free = next((i for i, left in enumerate(devices) if left >= asked.gpus), None)
                if free is None:
                    break
                devices[free] -= asked.gpus
            elif asked.gpus:
                if len(devices) < asked.gpus:
                    break
                devices = devices[int(asked.gpus) :]
            cpus, memory, count = cpus - asked.cpus, memory - asked.memory, count + 1
    return min(count, asked.workers) if asked.workers else count


@given(asked=wants, on=nodes)
def test_the_plan_is_what_placing_one_worker_after_another_gives(
    asked: Resources, on: list[Node]
) -> None:
    (step,) = plan([("step", asked)], on)
    assert step.workers == placed(asked, on)


@given(asked=wants, on=nodes)
def test_a_step_has_a_fault_exactly_when_not_one_worker_can_be_placed(
    asked: Resources, on: list[Node]
) -> None:
    faults = fits([("step", asked)], on)
    assert bool(faults) == (placed(asked, on) == 0)
    assert not any("\n" in fault for fault in faults)


def test_a_gpu_that_is_not_there_is_named_with_the_mend() -> None:
    (fault,) = fits([("read", Resources()), ("embed", Resources(gpus=1))], [Node(cpus=8)])
    assert fault == (
        "embed: asks for 1 GPU a worker, this machine has 0; "
        "set steps.embed.resources.gpus=0 or run on a larger machine (--address)"
    )


def test_two_small_nodes_do_not_make_one_large_worker() -> None:
    pair = [Node(cpus=2, name="a"), Node(cpus=2, name="b")]
    (fault,) = fits([("text", Resources(cpus=4))], pair)
    assert "asks for 4 CPUs a worker, the largest of 2 nodes has 2" in fault


def test_what_no_single_node_has_together_is_said() -> None:
    mixed = [Node(cpus=16, name="a"), Node(cpus=2, gpus=1, name="b")]
    (fault,) = fits([("text", Resources(cpus=4, gpus=1))], mixed)
    assert "asks for 4 CPUs, 1 GPU on one machine" in fault


def test_actors_leave_a_cpu_for_reading() -> None:
    assert plan([("embed", Resources(actor=True))], [Node(cpus=4)])[0].workers == 3
    assert plan([("embed", Resources(actor=True))], [Node(cpus=1)])[0].workers == 1
    with_gpus = Resources(actor=True, gpus=1)
    assert plan([("embed", with_gpus)], [Node(cpus=16, gpus=2)])[0] == resources.StepPlan(
        "embed", 2, "GPUs"
    )


def test_the_limit_that_holds_is_named() -> None:
    node = Node(cpus=8, gpus=1, memory=8 * GIB)
    cases = {
        "CPUs": Resources(cpus=2),
        "GPUs": Resources(gpus=0.5),
        "memory": Resources(memory=4 * GIB),
        "setting": Resources(workers=2),
    }
    for limit, asked in cases.items():
        assert plan([("step", asked)], [node])[0].limit == limit


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, 4), ("", 0), ("-1", 0), ("0,2", 2), ("GPU-1a2b", 1)]
)
def test_hidden_gpus_are_not_counted(
    visible: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources.glob, "glob", lambda _: [f"/dev/nvidia{i}" for i in range(4)])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_gpus() == expected


def test_this_machine_has_cpus_and_memory() -> None:
    node = this_machine()
    assert node.cpus >= 2
    assert node.memory > 0
    assert this_machine(cpus=7).cpus == 7


def test_a_container_with_little_memory_counts_as_little(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"memory.max": GIB, "memory.current": GIB // 4}
    monkeypatch.setattr(resources, "_cgroup", limits.get)
    assert resources.memory_bytes() == GIB - GIB // 4


def test_every_kind_of_wish_is_answered_without_an_error() -> None:
    for cpus, gpus, actor in itertools.product((0.0, 0.5, 3.0), (0.0, 0.3, 2.0), (False, True)):
        asked = Resources(cpus=cpus, gpus=gpus, actor=actor)
        assert plan([("step", asked)], [Node(cpus=4, gpus=2)])[0].workers >= 1
