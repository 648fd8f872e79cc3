"""Fixtures that several packages share. Its place puts the helper modules of tests/ in reach."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

# Tests of several processes: threads of one that wait for each other spin, and take the CPU from
# those that they wait for. Before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import tiny_models

# No test asserts times: a busy machine is no fault.
hypothesis.settings.register_profile(
    "datagen", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("datagen")


@pytest.fixture(scope="session")
def _shared_ray() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def ray(_shared_ray: contextlib.ExitStack) -> None:
    """A Ray of two CPUs, started once for all files of this process that ask for it."""
    import ray as installed

    from datagen.cluster.connect import connect

    if not installed.is_initialized():
        _shared_ray.enter_context(connect("local", cpus=2))


@pytest.fixture(scope="module")
def no_ray(_shared_ray: contextlib.ExitStack) -> None:
    """No Ray yet: for files whose workers must see what their tests put into the environment."""
    _shared_ray.close()


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Reference of a tiny random open_clip model."""
    pytest.importorskip("torch", reason="needs datagen[models]")
    return tiny_models.tiny_open_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Reference of a tiny random sentence encoder."""
    pytest.importorskip("torch", reason="needs datagen[models]")
    return tiny_models.tiny_sentence_transformer(tmp_path_factory.mktemp("encoder"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
