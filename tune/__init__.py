"""The search around LFVD's training: Ray Tune schedules, Optuna samples, ASHA stops early, seeds confirm, MLflow records.

>>> from tune import open_study, run_search
>>> result = run_search("demo", "data/demo.safetensors")
>>> result.best.optim.lr, result.ranking, result.trials, result.statement
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune.api import StudyResult, open_study, run_search

__all__ = ["StudyResult", "open_study", "run_search"]


def __getattr__(name: str) -> Any:
    """Import the API at its first use: Ray, Optuna and MLflow take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tune import api

    return getattr(api, name)
