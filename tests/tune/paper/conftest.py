"""A corpus, a plan, and a grid with all rows."""

from pathlib import Path

import pytest

from lfvd.data.corpus import Corpus
from lfvd.data.simulate import simulate
from lfvd.files import write_yaml
from tests.helpers.grids import PLAN, begin, work
from tune.paper import reproduce
from tune.paper.grid import Grid
from tune.paper.rows import ROWS


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    """Real classes, few dialogues, narrow features."""
    path = tmp_path_factory.mktemp("corpus") / "small.safetensors"
    return simulate("meld", seed=0, dialogues=20, widths={"l": 6, "a": 5, "v": 4}).save(path)


@pytest.fixture(scope="session")
def plan(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "small.yaml"
    write_yaml(path, PLAN)
    return path


@pytest.fixture(scope="session")
def whole(tmp_path_factory, plan, corpus) -> Grid:
    """All parts, all rows, written. Not to be changed."""
    grid = begin(tmp_path_factory.mktemp("results") / "paper", plan, corpus, *ROWS)
    work(grid, corpus)
    reproduce.write(grid, corpus)
    return grid
