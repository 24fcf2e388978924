"""Fixtures of the preflight tests."""

import pytest

from tune.execution import ray_cluster


@pytest.fixture
def two_cores(monkeypatch) -> None:
    """A cluster of one node, as Ray would report it."""
    monkeypatch.setattr(ray_cluster, "_nodes", lambda: [{"CPU": 2.0, "memory": 8e9}])
    monkeypatch.setattr(ray_cluster, "counted_gpus", lambda: {"10.0.0.1": 0})
