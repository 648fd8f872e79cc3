"""What tests of whole runs share: a small recipe, the command in a process, hashes of shards."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from datagen import cli
from datagen.store import TEMPORARY

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "tests" / "own" / "caption_length.py"

#: How the text files of a report end when they are whole.
ENDS = {".html": "</html>", ".js": ");", ".md": "-->"}

#: Every kind of step, on images and clips, in small batches so that journals have many parts.
RECIPE = f"""
name: small
seed: 5
source: {{type: tinyworld, count: 240, size: 48, clips: 0.3}}
steps:
  - filter: {{op: "{OWN}:CaptionLength", low: 1, resources: {{batch_size: 16}}}}
  - embed: {{space: caption, model: tfidf, width: 32}}
  - pair: {{op: one_word_diff, max_per_reference: 3}}
  - filter: {{op: similarity, space: caption, low: 0.05, resources: {{batch_size: 16}}}}
  - text: {{op: template, texts_per_pair: 2, resources: {{batch_size: 16}}}}
  - filter: {{op: duplicates, resources: {{batch_size: 16}}}}
  - negatives: {{reference: true, mined: 2, space: caption}}
  - split: {{train: 0.8, val: 0.1, test: 0.1}}
  - shards: {{max_size: 300KB}}
"""


def recipe(folder, text=RECIPE, name="small.yaml"):
    """Write a recipe and return its path."""
    path = Path(folder) / name
    path.write_text(text)
    return str(path)


def command(*arguments):
    """The command line of ``datagen`` in a process of its own."""
    return [sys.executable, "-m", "datagen", *map(str, arguments)]


def datagen(*arguments, expect=0, **options):
    """Run the command; returns the finished process after checking its exit status."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=ROOT, check=False, **options
    )
    assert done.returncode == expect, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def called(*arguments, expect=0, env=None):
    """The command in this process, as :func:`datagen` gives it, for what needs no process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, env or {}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main([str(one) for one in arguments])
    stdout, stderr = out.getvalue(), err.getvalue()
    assert (ended.value.code or 0) == expect, f"{ended.value.code}\n{stdout}\n{stderr}"
    return subprocess.CompletedProcess(arguments, expect, stdout, stderr)


def shard_hashes(out):
    """SHA-256 of every shard, recomputed, after checking them against the manifest."""
    folder = Path(out) / "shards"
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.tar")}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {s["name"]: s["sha256"] for s in manifest["shards"]} == found
    return found


def check_is_whole(name, data):
    """Read a file of a run from its bytes, whatever its kind."""
    if name.endswith(".parquet"):
        pq.read_table(io.BytesIO(data))
    elif name.endswith((".json", ".lock")):
        json.loads(data)
    elif name.endswith(".npy"):
        np.load(io.BytesIO(data), allow_pickle=False)
    elif name.endswith(".tar"):
        assert data[-1024:] == bytes(1024), name
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                assert len(file.read()) == member.size
    elif name.endswith(".webp"):
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
    elif "/staged/" in name:
        # Pictures of WebP one after the other, each of the length that it tells (even).
        at = 0
        while at < len(data):
            assert data[at : at + 4] == b"RIFF", name
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            at += 8 + size + size % 2
        assert at == len(data), name
    elif name.endswith(".yaml"):
        assert "steps" in yaml.safe_load(data)
    else:
        end = [text for ending, text in ENDS.items() if name.endswith(ending)]
        assert end, f"a file that nobody expects: {name}"
        assert data.decode().rstrip().endswith(end[0]), name


def check_files_are_whole(out):
    """Read every file that stands under a final name; returns how many there are."""
    count = 0
    for folder, _, names in os.walk(out):
        for name in names:
            # The lock of a local run is an empty file.
            if not name.startswith(TEMPORARY) and name != "run.lock":
                path = os.path.join(folder, name)
                check_is_whole(path, Path(path).read_bytes())
                count += 1
    return count
