"""Batches of dialogues as named, padded tensors.

Shape legend, used throughout the package: b dialogues, n utterances (padded to the batch's longest dialogue),
m modalities, d model width, z latent width, c classes; N utterances of a whole corpus, D its dialogues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lfvd.data import UNLABELLED


@dataclass(frozen=True, kw_only=True)
class Batch:
    """b dialogues, padded with zeros (features, speaker) and UNLABELLED (label)."""

    features: dict[str, Tensor]  # modality → [b, n, width of its features] float32
    speaker: Tensor  # [b, n] int64, local to the dialogue; always on the CPU, where lfvd.models.graph reads it
    label: Tensor  # [b, n] int64
    mask: Tensor  # [b, n] bool, true on utterances
    length: Tensor  # [b] int64, always on the CPU: packed sequences want it there

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device; `speaker` and `length` stay on the CPU."""
        return replace(
            self,
            features={m: x.to(device, non_blocking=True) for m, x in self.features.items()},
            label=self.label.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
        )


def collate(
    features: Mapping[str, np.ndarray],
    speaker: np.ndarray,
    label: np.ndarray,
    *,
    offset: np.ndarray,
    dialogues: Sequence[int] | np.ndarray,
) -> Batch:
    """Gather dialogues out of flat arrays.

    features: modality → [N, width]; speaker, label: [N]; offset: [D+1], dialogue i holds utterances offset[i]:offset[i+1].
    """
    chosen = np.asarray(dialogues, dtype=np.int64)
    length = offset[chosen + 1] - offset[chosen]  # [b]
    position = np.arange(length.max())  # [n]
    mask = position < length[:, None]  # [b, n]
    # [b, n]; padding points at row 0 and is blanked below.
    index = np.where(mask, offset[chosen][:, None] + position, 0)

    def blanked(flat: np.ndarray, fill: float) -> Tensor:
        padded = flat[index]
        padded[~mask] = fill
        return torch.from_numpy(padded)

    return Batch(
        features={m: blanked(x, 0.0) for m, x in features.items()},
        speaker=blanked(speaker, 0),
        label=blanked(label, UNLABELLED),
        mask=torch.from_numpy(mask),
        length=torch.from_numpy(length),
    )
