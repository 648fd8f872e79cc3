"""Templates are whole, and Slurm's really runs: with stand-ins for Slurm's own two commands."""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"

#: Drops Slurm's options and runs the rest here; on "another node" without what only the head has.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
printf '127.0.0.1\\nother-node\\n'
"""


@pytest.fixture
def short() -> Iterator[str]:
    """A folder for Ray's sockets, whose paths must be shorter than pytest's folders are."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as path:
        yield path


def loaded(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def test_the_rayjob_has_what_kuberay_requires() -> None:
    job = loaded("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["entrypoint"].startswith("python -m datagen run ")
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_rayjob_and_the_constraints_name_one_version_of_ray() -> None:
    constraints = (CLUSTER.parent / "constraints.txt").read_text(encoding="utf-8").split()
    (pinned,) = [line.split("==")[1] for line in constraints if line.startswith("ray==")]
    assert loaded("kuberay.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned
    for name in ("kuberay.yaml", "aws.yaml"):
        assert pinned in (CLUSTER / name).read_text(encoding="utf-8")


def test_the_aws_template_passes_rays_own_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    ray = pytest.importorskip("ray")
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(loaded("aws.yaml"), json.loads(schema.read_text(encoding="utf-8")))
    assert loaded("aws.yaml")["head_node_type"] in loaded("aws.yaml")["available_node_types"]


def test_the_slurm_script_is_bash() -> None:
    checked = subprocess.run(["bash", "-n", CLUSTER / "slurm.sh"], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.slow
def test_the_slurm_script_makes_a_cluster_of_all_nodes_and_runs_on_it(
    tmp_path: Path, short: str, own_recipe: Path, clean_environment: dict[str, str]
) -> None:
    pytest.importorskip("aiohttp", reason="needs the cluster extra")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = {
        **clean_environment,
        "PATH": f"{tools}:{clean_environment['PATH']}",
        "SLURM_JOB_ID": str(secrets.randbelow(10_000)),
        "SLURM_JOB_NODELIST": "two",
        "SLURM_CPUS_PER_TASK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_TMPDIR": short,
    }
    done = subprocess.run(
        ["bash", CLUSTER / "slurm.sh", own_recipe.name, "--out", "out"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "\n2 nodes\n" in done.stdout
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "finished"
