"""Config → model and loss. No other module of lfvd.models reads a Config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial

from torch import Tensor

from lfvd.config import MODALITIES, Config
from lfvd.models.lfvd import LFVD, Output, loss_terms

Loss = Callable[[Output, Tensor], dict[str, Tensor]]
"""Output of the model, label [b, n] → `total` and its unweighted terms, each a scalar."""


def build_model(config: Config, features: Mapping[str, int], classes: int) -> LFVD:
    """Config, feature width of each modality, number of classes → model. Initialised from torch's global generator."""
    present = [m for m in MODALITIES if m in config.data.modalities]
    values = asdict(config.model) | {"anchor": present.index(config.anchor)}
    del values["detach_teacher"]  # of the loss
    return LFVD(
        features={m: features[m] for m in present},
        classes=classes,
        mixed_precision=config.run.precision == "bf16",
        **values,
    )


def build_loss(config: Config, class_weight: Tensor | None = None) -> Loss:
    """Config, weight of each class [c] or None → loss of the model that `build_model` makes of it."""
    present = [m for m in MODALITIES if m in config.data.modalities]
    loss = config.loss
    return partial(
        loss_terms,
        anchor=present.index(config.anchor),
        gamma1=loss.gamma1,
        gamma2=loss.gamma2,
        gamma3=loss.gamma3,
        temperature=loss.temperature,
        detach_teacher=config.model.detach_teacher,
        class_weight=class_weight,
    )
