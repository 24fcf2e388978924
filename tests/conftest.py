"""Fixtures shared by several test files."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def meld_folder() -> Path:
    """The published MELD transcripts; test data that stand beside the repository, never in it."""
    folder = Path(__file__).parents[2] / "shared" / "meld"
    if not folder.is_dir():
        pytest.skip(f"needs the published MELD transcripts in {folder}")
    return folder
