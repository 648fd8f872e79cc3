"""Fixtures that several packages share. Its place puts the helper modules of tests/ in reach."""

from __future__ import annotations

import hypothesis
import pytest
import tiny_models

# No test asserts times: a busy machine is no fault.
hypothesis.settings.register_profile(
    "datagen", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("datagen")


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
