from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from datagen.cluster.command import variables
from datagen.cluster.submit import job_server, pack
from datagen.errors import DatagenError

RECIPE = """
name: mine
source: {type: folder, path: photos, annotations: captions.csv, captions: caption}
steps:
  - filter: {op: "ops/sharp.py:Sharp", low: 0.5}
  - text: {op: llm, prompt: prompts/edit.txt, model: "hf:org/model"}
"""

SUBMIT = """
import sys
from datagen.cluster.submit import submit
recipe, out, address, command, wait = sys.argv[1:]
sys.exit(submit(recipe, [], out, address, command=eval(command), wait=wait == "wait"))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a recipe, an operator, a prompt, photos and captions."""
    files = {
        "mine.yaml": RECIPE,
        "ops/sharp.py": "class Sharp: ...\n",
        "prompts/edit.txt": "Say what changes.\n",
        "photos/a.jpg": "",
        "captions.csv": "file,caption\n",
    }
    for name, text in files.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def packed(folder: Path) -> dict[str, Any]:
    data = yaml.safe_load((folder / "mine.yaml").read_text())
    assert isinstance(data, dict)
    return data


@pytest.fixture
def parcel(tmp_path: Path) -> Path:
    folder = tmp_path / "parcel"
    folder.mkdir()
    return folder


def test_the_parcel_holds_the_recipe_and_the_files_that_its_steps_name(
    project: Path, parcel: Path
) -> None:
    pack("mine.yaml", [], "s3://bucket/run", str(parcel))
    sent = {str(path.relative_to(parcel)) for path in parcel.rglob("*") if path.is_file()}
    assert sent == {"mine.yaml", "ops/sharp.py", "prompts/edit.txt"}
    steps = packed(parcel)["steps"]
    assert steps[0]["filter"]["op"] == "ops/sharp.py:Sharp"
    assert steps[1]["text"] == {"op": "llm", "prompt": "prompts/edit.txt", "model": "hf:org/model"}


def test_overrides_are_resolved_before_sending(project: Path, parcel: Path) -> None:
    pack("mine.yaml", ["steps.Sharp.low=0.7", "source.path=s3://b/p"], "s3://b/o", str(parcel))
    assert packed(parcel)["steps"][0]["filter"]["low"] == 0.7
    assert packed(parcel)["source"]["path"] == "s3://b/p"


def test_relative_source_and_run_paths_become_absolute_and_are_warned_about(
    project: Path, parcel: Path
) -> None:
    sent = pack("mine.yaml", ["source.path=photos/*.jpg"], "runs/one", str(parcel))
    assert packed(parcel)["source"]["path"] == str(project / "photos/*.jpg")
    assert sent.command[-1] == str(project / "runs/one")
    assert len(sent.warnings) == 2
    assert all("every node must see it" in warning for warning in sent.warnings)


def test_settings_of_the_source_that_are_columns_or_lie_below_its_path_stay_as_they_are(
    project: Path, parcel: Path
) -> None:
    (project / "caption").write_text("a file that is called like a column")
    (project / "photos" / "a").mkdir()
    (project / "photos" / "a" / "b.csv").write_text("")
    pack("mine.yaml", ["source.annotations=a/b.csv"], "runs/one", str(parcel))
    source = packed(parcel)["source"]
    assert (source["type"], source["captions"]) == ("folder", "caption")
    assert source["annotations"] == "a/b.csv"
    pack("mine.yaml", ["source.annotations=./captions.csv"], "runs/one", str(parcel))
    assert packed(parcel)["source"]["annotations"] == str(project / "captions.csv")


def test_cloud_paths_are_not_warned_about(project: Path, parcel: Path) -> None:
    overrides = ["source.path=s3://b/p", "source.annotations=s3://b/c.csv"]
    assert pack("mine.yaml", overrides, "s3://b/o", str(parcel)).warnings == []


def test_an_operator_outside_the_folder_travels_and_its_name_follows(
    project: Path, parcel: Path, tmp_path: Path
) -> None:
    (tmp_path / "far.py").write_text("class Far: ...\n")
    pack("mine.yaml", ["steps.Sharp.op=../far.py:Far"], "s3://b/o", str(parcel))
    place, _, name = packed(parcel)["steps"][0]["filter"]["op"].rpartition(":")
    assert name == "Far"
    assert (parcel / place).read_text() == "class Far: ...\n"


def test_a_missing_operator_file_is_said_before_anything_is_sent(
    project: Path, parcel: Path
) -> None:
    with pytest.raises(DatagenError, match="no such file"):
        pack("mine.yaml", ["steps.Sharp.op=nowhere.py:X"], "s3://b/o", str(parcel))


def test_the_job_server_is_told_from_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert job_server("head:8265") == "http://head:8265"
    assert job_server("https://ray.example/") == "https://ray.example"
    for wrong in (None, "ray://head:10001", "head:6379", "auto"):
        with pytest.raises(DatagenError, match="http://HEAD:8265"):
            job_server(wrong)


def test_environment_variables_are_passed_by_name_or_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    monkeypatch.delenv("NOT_THERE", raising=False)
    assert variables(["MY_KEY", "A=b=c"]) == {"MY_KEY": "secret", "A": "b=c"}
    with pytest.raises(DatagenError, match="NOT_THERE"):
        variables(["NOT_THERE"])


def test_the_command_is_mounted_and_asks_for_a_recipe() -> None:
    cli = pytest.importorskip("datagen.cli")
    if not any(command.name == "submit" for command in cli.app.registered_commands):
        cli._mount()
    result = CliRunner().invoke(cli.app, ["submit"])
    assert isinstance(result.exception, DatagenError)
    assert "name a recipe" in str(result.exception)


def submitted(head: Any, project: Path, command: list[str], wait: str = "wait") -> Any:
    arguments = (str(project / "mine.yaml"), str(project / "out"), head.server)
    return head.python(SUBMIT, *arguments, repr(command), wait, limit=180)


def test_a_job_runs_this_package_beside_its_files_and_gives_its_exit_code(
    head: Any, project: Path
) -> None:
    code = (
        "import os, sys, datagen.filters as f; "
        "print('files', sorted(os.listdir())); print('package', f.__file__); "
        "from datagen.cluster.connect import in_ray_job; print('job', in_ray_job()); "
        "sys.exit(3)"
    )
    done = submitted(head, project, ["python", "-c", code])
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("files ['mine.yaml', 'ops', 'prompts']") == 1
    assert "runtime_resources/py_modules_files" in done.stdout
    assert "job True" in done.stdout
    assert done.stderr.startswith("submitted datagen-mine-")


def test_ctrl_c_leaves_the_job_running_until_it_is_stopped(head: Any, project: Path) -> None:
    sleeper = ["python", "-c", "import time; print('begun'); time.sleep(600)"]
    arguments = [str(project / "mine.yaml"), str(project / "out"), head.server, repr(sleeper)]
    process = subprocess.Popen(
        [sys.executable, "-c", SUBMIT, *arguments, "wait"],
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while (line := process.stdout.readline()) and "begun" not in line:
        pass
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    job = said.split()[1]
    assert f"--stop {job}" in said
    assert f"--follow {job}" in said
    assert "Traceback" not in said

    stop = "import sys; from datagen.cluster.submit import follow, stop; stop(*sys.argv[1:]); "
    done = head.python(stop + "sys.exit(follow(*sys.argv[1:]))", job, head.server)
    assert done.returncode == 143, done.stderr
    assert f"{job} was stopped" in done.stderr


def test_a_job_or_a_server_that_does_not_exist_is_one_line(head: Any) -> None:
    follow = """
import sys
from datagen.cluster.submit import follow
from datagen.errors import DatagenError
for job, address in (("nobody", sys.argv[1]), ("nobody", "http://127.0.0.1:9")):
    try:
        follow(job, address)
    except DatagenError as error:
        print(error)
"""
    done = head.python(follow, head.server)
    unknown, unreachable = done.stdout.splitlines()
    assert "knows no such job" in unknown
    assert "no answer" in unreachable


def test_a_recipe_with_an_operator_of_ones_own_runs_on_the_cluster(
    head: Any, own_recipe: Path
) -> None:
    out = own_recipe.parent / "out"
    command = [sys.executable, "-m", "datagen", "submit", str(own_recipe)]
    done = subprocess.run(
        [*command, "--out", str(out), "--address", head.server],
        env=head.environment,
        cwd=own_recipe.parent,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stderr.count("\n") == 1  # that it was submitted, and under which name
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


def test_a_run_on_a_node_of_the_cluster_is_the_same_run(head: Any, own_recipe: Path) -> None:
    """The same recipe, on the cluster and in a Ray of its own: the same tables."""
    command = [sys.executable, "-m", "datagen", "run", str(own_recipe), "--quiet"]
    for name, options in (("there", ["--address", head.address]), ("here", ["--cpus", "2"])):
        done = subprocess.run(
            [*command, "--out", str(own_recipe.parent / name), *options],
            env=head.environment,
            cwd=own_recipe.parent,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    there, here = (tables(own_recipe.parent / name) for name in ("there", "here"))
    assert there == here
    assert there


def tables(out: Path) -> dict[str, bytes]:
    """Every table of a run, but for the parts of journals, which may come in any cut."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*.parquet")
        if path.parent.name != "journal"
    }
