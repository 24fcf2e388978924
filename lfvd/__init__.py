"""LFVD: multimodal emotion recognition in conversation (language, audio, visual). The Python API is lfvd.api's."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lfvd.api import TrainedModel, evaluate, predict, train
    from lfvd.config import Config
    from lfvd.data.corpus import Corpus

__version__ = "0.1.0"
__all__ = ["Config", "Corpus", "TrainedModel", "evaluate", "predict", "train"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: torch and pandas take seconds, and `lfvd --help` needs neither."""
    if name not in __all__:
        raise AttributeError(f"module 'lfvd' has no attribute {name!r}")
    module = {"Config": "lfvd.config", "Corpus": "lfvd.data.corpus"}.get(name, "lfvd.api")
    return getattr(importlib.import_module(module), name)
