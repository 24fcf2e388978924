"""Fixtures of the MLflow tests."""

import pytest

from tests.helpers.mlflow_studies import start
from tune.study.study import Study
from tune.tracking.mlflow_writer import default_uri


@pytest.fixture(scope="session")
def uri(tmp_path_factory) -> str:
    """One database for all tests: making its tables takes seconds."""
    return default_uri(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def study(tmp_path, tiny_corpus, request) -> Study:
    """An empty study with the test's name."""
    return start(tmp_path / request.node.name, tiny_corpus)
