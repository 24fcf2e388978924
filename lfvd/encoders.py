"""Context encoders (Eq. 2): dropout, then a bidirectional GRU for each modality. Shape legend: lfvd.batch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Encoder(nn.Module):
    """One modality's features → context-aware representations of the model width.

    Packed sequences make the backward direction start at each dialogue's last utterance, so padding changes nothing.
    """

    def __init__(self, *, features: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(features, width // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        """x [b, n, features], length [b] on the CPU → [b, n, d], zero on padding."""
        packed = pack_padded_sequence(self.dropout(x), length, batch_first=True, enforce_sorted=False)
        hidden, _ = self.gru(packed)
        padded, _ = pad_packed_sequence(hidden, batch_first=True, total_length=x.shape[1])
        return padded
