"""Steps that paint on a cluster of several GPUs (Ray is told of them; there are none): each
replica has its own, and a step has all of them when its turn comes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PAINTER = '''
import os, time
import numpy as np
from datagen.edits._painter import Painter, PaintSettings
from datagen.edits._samples import Painted
from datagen.step import Resources

class GpuSettings(PaintSettings):
    seconds: float = 0.3

class OnGpu(Painter[GpuSettings]):
    """Tells which GPUs Ray gave it."""
    Settings = GpuSettings
    requires = ()

    def resources(self):
        return Resources(gpus=1, batch_size=1, actor=True)

    def load(self):
        time.sleep(0.5)

    def record(self, sample, painted):
        return {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "worker": os.getpid()}

    def paint(self, samples):
        time.sleep(self.settings.seconds)
        dice = np.random.default_rng(samples[0].seed)
        return [Painted(*dice.random((2, 8, 8, 3), dtype=np.float32)) for _ in samples]
'''

SCRIPT = """
import json, sys
import ray
quiet = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
ray.init(num_cpus=12, num_gpus=4, **quiet)
import datagen
recipe = json.load(open(sys.argv[1]))
datagen.run(recipe, sys.argv[2])
run = datagen.load(sys.argv[2])
found = {}
for step in ("first", "second"):
    told = [json.loads(edit) for edit in run.table(step)["edit"].to_pylist()]
    found[step] = sorted({(one["worker"], one["gpus"]) for one in told})
print("FOUND" + json.dumps(found))
"""


def placed(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> Any:
    """Workers of both steps, and the GPUs that each was given."""
    own = folder / "on_gpu.py"
    own.write_text(PAINTER)
    told = {"op": f"{own}:OnGpu", "batch_size": 1}
    steps = [
        {"pair": {"op": "one_word_diff", "max_per_reference": 1}},
        {"edit": {**told, "id": "first", "resources": first}},
        {"edit": {**told, "id": "second", "resources": second}},
    ]
    source = {"type": "tinyworld", "count": 60, "size": 32}
    path = folder / "recipe.json"
    path.write_text(json.dumps({"name": "gpus", "source": source, "steps": steps}))
    command = [sys.executable, "-c", SCRIPT, str(path), str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("FOUND")[2])


def test_every_replica_has_a_gpu_of_its_own_and_each_step_all_of_them(tmp_path: Path) -> None:
    found = placed(tmp_path, {}, {"gpus": 2})
    assert sorted(gpus for _, gpus in found["first"]) == ["0", "1", "2", "3"]
    pairs = [set(gpus.split(",")) for _, gpus in found["second"]]
    assert sorted(map(len, pairs)) == [2, 2]
    assert set.union(*pairs) == {"0", "1", "2", "3"}


def test_small_models_share_gpus_and_workers_may_be_fewer(tmp_path: Path) -> None:
    found = placed(tmp_path, {"gpus": 0.5}, {"workers": 2})
    assert 4 < len(found["first"]) <= 8
    shared = Counter(gpus for _, gpus in found["first"])
    assert set(shared) <= {"0", "1", "2", "3"}
    assert max(shared.values()) == 2
    assert len({gpus for _, gpus in found["second"]}) == len(found["second"]) == 2
