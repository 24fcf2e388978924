"""A whole study with its report."""

import pytest

from tests.helpers import invented
from tests.helpers.browser import Reader
from tune.report.report import write_report
from tune.study.study import Study


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Study:
    """Searched, confirmed, evaluated on test, with two faults. Not to be changed."""
    study = invented.whole(tmp_path_factory.mktemp("report") / "narrow")
    study.log_fault("Worker lost: node-3 <is gone>", "continued from epoch 4", stage="search", trial=9, seed=77)
    study.log_fault("node-3 came back", "went on", stage="confirm", trial=9, seed=4)
    write_report(study)
    return study


@pytest.fixture(scope="session")
def page(whole) -> Reader:
    return Reader((whole.folder / "report.html").read_text(encoding="utf-8"))
