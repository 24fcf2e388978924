"""The DAG stack as it is usually written: padded batches, one modality at a time, one utterance after the other, autograd.

The slow side of `make bench`. It costs as much as public code of this field: attention transforms all earlier states anew at
each utterance, and each cell is a call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lfvd.models.dag import DAGStack
from tests.helpers import reference


class LiteralStack(DAGStack):
    """A DAGStack whose forward pass is that of reference.py; same parameters, same values, same gradients."""

    def forward(self, x: Tensor, speaker: Tensor, length: Tensor) -> Tensor:
        """x (H^0) [m, b, n, d], speaker [b, n], length [b] → [m, b, n, d]."""
        masks = reference.predecessors(speaker.to(x.device), self.speaker_window)
        return torch.stack([reference.dag(self, m, below, masks, len(x)) for m, below in enumerate(x)])
