"""LFVD: encoders, DAG, language-focused augmentation, latents, fusion, classifier, in the paper's order.

Shape legend: lfvd.data.batch. `loss_terms` is the only place that weighs the losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from lfvd.config import MODALITIES
from lfvd.data import UNLABELLED
from lfvd.data.batch import Batch
from lfvd.models import losses
from lfvd.models.attention import Augmentation
from lfvd.models.dag import DAGStack
from lfvd.models.encoders import Encoder
from lfvd.models.variational import Fusion, Gaussian, LatentHeads


@dataclass(frozen=True, kw_only=True)
class Output:
    """What the model computes of a batch; the modality axis follows `LFVD.modalities`."""

    logits: Tensor  # [b, n, c]
    representation: Tensor  # [m, b, n, d], input of the contrastive losses
    latent: Gaussian  # of [m, b, n, z]
    weight: Tensor  # [m, b, n], fusion weight of each modality (anchor: 1)


class LFVD(nn.Module):
    """Emotion of every utterance of a dialogue from its language, audio and visual features.

    features: modality → width of its features; anchor: index into them in the order l, a, v; mixed_precision: bfloat16
    in all but the weights, the DAG's loop and the output.
    """

    def __init__(
        self,
        *,
        features: Mapping[str, int],
        classes: int,
        width: int,
        latent: int,
        heads: int,
        dag_layers: int,
        dag_speaker_window: int,
        dropout: float,
        anchor: int,
        attention: bool,
        atmosphere: bool,
        atmosphere_scale: float,
        fusion: str,
        divergence: str,
        mixed_precision: bool = False,
    ) -> None:
        super().__init__()
        self.mixed_precision = mixed_precision
        self.modalities = tuple(m for m in MODALITIES if m in features)
        self.anchor = anchor
        m = len(self.modalities)
        self.encoders = nn.ModuleDict(
            {name: Encoder(features=features[name], width=width, dropout=dropout) for name in self.modalities}
        )
        self.dag = DAGStack(modalities=m, width=width, layers=dag_layers, speaker_window=dag_speaker_window)
        self.augmentation = (
            Augmentation(
                modalities=m,
                anchor=anchor,
                width=width,
                heads=heads,
                dropout=dropout,
                atmosphere=atmosphere,
                atmosphere_scale=atmosphere_scale,
            )
            if attention
            else None
        )
        self.latent = LatentHeads(modalities=m, width=width, latent=latent)
        self.fusion = Fusion(kind=fusion, modalities=m, anchor=anchor, width=width, divergence=divergence)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, classes)

    def standardise(self, rows: Mapping[str, np.ndarray]) -> None:
        """Let each encoder standardise its features by the given rows, modality → [N, width]."""
        for m in self.modalities:
            cast(Encoder, self.encoders[m]).standardise(rows[m])

    def forward(self, batch: Batch) -> Output:
        """A batch → Output. Padding changes nothing at valid utterances."""
        with torch.autocast(batch.mask.device.type, torch.bfloat16, enabled=self.mixed_precision):
            encoded = [self.encoders[m](batch.features[m], batch.length) for m in self.modalities]
            x = self.dag(torch.stack(encoded), batch.speaker, batch.length)  # [m, b, n, d]
            if self.augmentation is not None:
                x = self.augmentation(x, batch.mask)
            latent = self.latent(x)
            fused, weight = self.fusion(x, latent)
            logits = self.classifier(self.dropout(fused))
        out = [logits, x, latent.mean, latent.log_variance, weight]
        logits, x, mean, log_variance, weight = (part.to(self.classifier.weight.dtype) for part in out)
        return Output(logits=logits, representation=x, latent=Gaussian(mean, log_variance), weight=weight)


def loss_terms(
    output: Output,
    label: Tensor,
    *,
    anchor: int,
    gamma1: float,
    gamma2: float,
    gamma3: float,
    temperature: float,
    detach_teacher: bool = False,
    class_weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """The total loss (Eq. 21) and its unweighted terms, each a scalar over the labelled utterances of label [b, n]."""
    labelled = label != UNLABELLED  # [b, n]
    target = label[labelled]  # [N]
    x = output.representation[:, labelled]  # [m, N, d]
    latent = Gaussian(output.latent.mean[:, labelled], output.latent.log_variance[:, labelled])
    terms = {
        "classification": losses.classification(output.logits[labelled], target, class_weight),
        "cross_modal": losses.cross_modal_contrastive(x, temperature),
        "supervised": losses.supervised_contrastive(x, target, temperature),
        "distillation": losses.distillation(latent, anchor, detach_teacher),
    }
    total = terms["classification"]
    for name, gamma in (("cross_modal", gamma1), ("supervised", gamma2), ("distillation", gamma3)):
        if gamma:  # an ablated term must not matter, even where it is not finite
            total = total + gamma * terms[name]
    return {"total": total, **terms}
