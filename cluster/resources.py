"""Resource plans: how many workers of each step run at once, and what cannot run at all.

Pure arithmetic on what steps ask for and what nodes have, so that ``datagen plan`` can say it
before Ray starts.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datagen.step import Resources


@dataclass(frozen=True)
class Node:
    """One machine: logical CPUs, GPUs, and bytes of memory that tasks may reserve (0: unknown)."""

    cpus: float
    gpus: float = 0.0
    memory: int = 0
    name: str = "this machine"


@dataclass(frozen=True)
class StepPlan:
    """How a step runs: ``workers`` at once over all nodes; ``limit`` names what sets that number
    (``CPUs``, ``GPUs``, ``memory``, ``setting``)."""

    step: str
    workers: int
    limit: str


def this_machine(cpus: int | None = None) -> Node:
    """What this machine would bring to a local run, without starting Ray.

    ``cpus`` overrides the count, as ``datagen run --cpus`` does.
    """
    return Node(float(cpus or local_cpus()), float(local_gpus()), memory_bytes())


def local_cpus() -> int:
    """CPUs that this process may use, at least two: one to read, one to work."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        count = os.cpu_count() or 1
    return max(2, count)


def local_gpus() -> int:
    """NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible."""
    present = len(glob.glob("/dev/nvidia[0-9]*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    named = [name for name in visible.split(",") if name.strip()]
    return min(present, len([name for name in named if name.strip() != "-1"]))


def memory_bytes() -> int:
    """Memory that this process can still get: of the machine, or of its container if smaller."""
    total = available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is not None and limit < total:
        available = min(available, limit - (used or 0))
    return max(0, available)


def _cgroup(name: str) -> int | None:
    try:
        with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # no cgroup v2 here, or "max"
        return None


def plan(steps: Iterable[tuple[str, Resources]], nodes: Sequence[Node]) -> list[StepPlan]:
    """How many workers of each step fit on ``nodes`` at once, each step alone.

    A worker lies on one node: two nodes with one free CPU each do not make a worker of two CPUs.
    An actor step leaves one CPU of the cluster to reading and preparing.
    """
    return [_plan_one(name, wants, nodes) for name, wants in steps]


def _plan_one(name: str, wants: Resources, nodes: Sequence[Node]) -> StepPlan:
    workers, limits = 0.0, []
    for node in nodes:
        fit, limit = min(_fit(wants, node))
        workers += fit
        limits.append((fit, limit))
    limit = max(limits)[1] if limits else "CPUs"
    if wants.actor and wants.cpus:
        spare = sum(node.cpus for node in nodes) - 1
        if workers * wants.cpus > spare:
            workers, limit = max(min(workers, 1.0), spare // wants.cpus), "CPUs"
    if wants.workers and wants.workers < workers:
        workers, limit = wants.workers, "setting"
    return StepPlan(name, int(min(workers, 1 << 20)), limit)


def _fit(wants: Resources, node: Node) -> list[tuple[float, str]]:
    """How many workers each resource of ``node`` allows."""
    allowed = [(node.cpus // wants.cpus if wants.cpus else math.inf, "CPUs")]
    if wants.gpus:
        # Ray packs fractions of a GPU on one device, never across two.
        share = math.floor(1 / wants.gpus + 1e-9) * node.gpus if wants.gpus < 1 else 0.0
        allowed.append((share or node.gpus // wants.gpus, "GPUs"))
    if wants.memory and node.memory:
        allowed.append((node.memory // wants.memory, "memory"))
    return allowed


def fits(steps: Iterable[tuple[str, Resources]], nodes: Sequence[Node]) -> list[str]:
    """One line for each step of which not even one worker fits on any node, with the mend."""
    faults = []
    for name, wants in steps:
        if not any(min(_fit(wants, node))[0] >= 1 for node in nodes):
            faults.append(_fault(name, wants, nodes))
    return faults


def _fault(name: str, wants: Resources, nodes: Sequence[Node]) -> str:
    if not nodes:
        return f"{name}: the cluster has no node alive"
    most = {
        "cpus": (wants.cpus, max(node.cpus for node in nodes), "CPU", 1.0),
        "gpus": (wants.gpus, max(node.gpus for node in nodes), "GPU", 1.0),
        "memory": (float(wants.memory), max(float(node.memory) for node in nodes), "GB", 1e9),
    }
    where = nodes[0].name if len(nodes) == 1 else f"the largest of {len(nodes)} nodes"
    for key, (asked, has, unit, scale) in most.items():
        if asked > has and not (key == "memory" and not has):
            setting = f"steps.{name}.resources.{key}={int(has)}"
            return (
                f"{name}: asks for {_amount(asked / scale, unit)} a worker, {where} has "
                f"{has / scale:g}; set {setting} or run on a larger machine (--address)"
            )
    asks = ", ".join(
        _amount(asked / scale, unit) for asked, _, unit, scale in most.values() if asked
    )
    return (
        f"{name}: asks for {asks} on one machine, and no node has them together; "
        f"lower steps.{name}.resources or run on a larger machine (--address)"
    )


def _amount(count: float, unit: str) -> str:
    plural = "s" if unit != "GB" and count != 1 else ""
    return f"{count:g} {unit}{plural}"


def share(nodes: Iterable[Node], workers: int, gpu: bool) -> int:
    """The most CPUs that each of ``workers`` processes can have, with a GPU each where ``gpu``;
    0 where there is no room for so many.
    """
    found = list(nodes)
    for cpus in range(int(max((node.cpus for node in found), default=0)), 0, -1):
        room = (int(node.cpus // cpus) for node in found)
        most = (int(node.gpus) if gpu else workers for node in found)
        if sum(map(min, room, most)) >= workers:
            return cpus
    return 0
