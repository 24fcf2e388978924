"""The figures of the LFVD paper, and which of them a corpus is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lfvd.files import InputError, read_yaml

_INSTALLED = Path(__file__).parent / "shipped" / "results" / "published.yaml"
PUBLISHED = _INSTALLED if _INSTALLED.is_file() else Path(__file__).parents[1] / "results" / "published.yaml"
"""File of the paper's figures: inside the package where it comes from a wheel, else the checkout's."""


def published() -> dict[str, Any]:
    """Figures of the paper, percent: `iemocap` and `meld` → `classes`, `table2` … `table6`, `length_bins`."""
    return read_yaml(PUBLISHED)


def dataset_of(name: str) -> str:
    """A corpus's name → the key of `published` that it is compared with. Raises InputError for another corpus."""
    for key in published():
        if name.lower().startswith(key):
            return key
    raise InputError(f"the data are {name}, but the paper's tables are of IEMOCAP and MELD: import one of them")
