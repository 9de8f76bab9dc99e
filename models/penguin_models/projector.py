"""The projector: features of the vision encoder -> embeddings of the decoder."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """Two linear layers with bias and a GELU between them; parameter names as in released checkpoints."""

    def __init__(self, vision_size: int, hidden_size: int):
        super().__init__()
        self.readout = nn.Sequential(
            nn.Linear(vision_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Projects features: [tokens, vision_size] -> [tokens, hidden_size]."""
        return self.readout(features)  # type: ignore[no-any-return]
