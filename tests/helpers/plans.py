"""Small configs, plans and studies."""

from pathlib import Path

TINY = {
    "model.width": 8,
    "model.latent": 2,
    "model.heads": 2,
    "model.dag_layers": 1,
    "optim.lr": 1e-2,
    "optim.batch_size": 4,
    "run.epochs": 4,
    "run.device": "cpu",
}
"""Config values for `tiny_corpus`."""


PLAN = {
    "base": "meld",
    "set": {
        **{k: v for k, v in TINY.items() if not k.startswith("run.") and k not in ("optim.lr", "model.heads")},
        "data.modalities": "l",
    },
    "space": {
        "optim.lr": {"low": 1e-4, "high": 3e-2, "log": True},
        "loss.gamma2": {"low": 1e-4, "high": 1e-1, "log": True},
        "model.heads": {"choices": [1, 2, 4]},
    },
    "sampler": {"kind": "tpe", "startup_trials": 4, "seed": 0},
    "scheduler": {"kind": "asha", "grace_epochs": 1, "reduction": 2, "max_epochs": 4},
    "trials": 6,
    "confirm": {"finalists": 2, "folds": 0, "seeds": [0, 1], "race": False},
}
"""A plan file's values for `tiny_corpus`; small, on one modality."""


def make_plan(**changes):
    """`PLAN` with sections replaced."""
    from tune.plan import SearchPlan

    return SearchPlan.from_dict({**PLAN, **changes}, source="plan", folder=Path())


def start_study(folder: Path, corpus, **changes):
    """Begin, or go on with, a study of `PLAN`."""
    import optuna

    from tune.study.plan_file import DataSource
    from tune.study.study import Study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return Study.start(folder, make_plan(**changes), DataSource.of(corpus, "tiny.safetensors"), {})
