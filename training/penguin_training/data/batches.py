"""Samples -> one packed micro-batch: one sequence without padding, and where in it everything stands.

Axes: T tokens of all samples one after the other; V visual tokens; N patches; K positions that are learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from penguin_models.encoder import FrameShape
from penguin_models.processor import IGNORE_INDEX
from penguin_models.types import Float32Array, Int64Array, Size
from penguin_training.data.independent_turns import positions
from penguin_training.data.samples import Example

_FILLER = FrameShape(Size(2, 2), 2)


@dataclass(frozen=True, eq=False)
class Batch:
    """A micro-batch.

    It always holds a token and a frame, so that every process runs every part of the model in every step: where the
    samples have none, a filler stands in, and nothing is learnt from it.

    Attributes:
        ids: int64 [T].
        positions: int64 [T], from 0 in every sample.
        lengths: tokens of each sample.
        turns: of each sample, see `Example`.
        places: int64 [P], where in the sequence visual tokens stand.
        taken: int64 [P], which visual tokens those are.
        predict_from: int64 [K], positions whose next token is learnt.
        targets: int64 [K], those next tokens.
        weights: float32 [K], what each counts in the loss, see `DataSettings.answer_balance`.
        patches: float32 [N, C*P*P].
        frames: shape of each frame.
        real_frames: whether the frames are the samples', not a filler.
        samples: how many there are.
        size: tokens of the budget that they take: of their sequences, or of pictures that stand in none.
        unusable: (id, reason) of samples that were left out.
        position: where the reader of a stream stands after it; empty for indexed data.
    """

    ids: Tensor
    positions: Tensor
    lengths: tuple[int, ...]
    turns: tuple[tuple[int, ...], ...]
    places: Tensor
    taken: Tensor
    predict_from: Tensor
    targets: Tensor
    weights: Tensor
    patches: Tensor
    frames: tuple[FrameShape, ...]
    real_frames: bool
    samples: int
    size: int
    unusable: tuple[tuple[str, str], ...] = ()
    position: tuple[int, ...] = ()

    @property
    def frame_tokens(self) -> list[int]:
        """Visual tokens of each frame."""
        return [frame.patches // frame.merge_size**2 for frame in self.frames]

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on a device."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()}
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory; a data loader calls this."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}


def collate(
    examples: Sequence[Example],
    image_token_id: int,
    patch_dim: int,
    unusable: Sequence[tuple[str, str]] = (),
    answer_balance: float = 0.0,
) -> Batch:
    """Packs samples into one micro-batch.

    Args:
        examples: may be empty.
        image_token_id: where it stands in their ids, visual tokens go.
        patch_dim: numbers in one patch.
        unusable: samples that were left out.
        answer_balance: see `DataSettings`.
    """
    read = [example for example in examples if len(example.ids)]
    ids = np.concatenate([np.empty(0, np.int64), *(example.ids for example in read)])
    labels = np.concatenate([np.empty(0, np.int64), *(example.labels for example in read)])
    lengths = tuple(len(example.ids) for example in read) or (1,)
    turns = tuple(example.turns for example in read) or ((),)
    if read:
        labels[_first_tokens(lengths, turns)] = IGNORE_INDEX
    learnt = np.flatnonzero(labels != IGNORE_INDEX)
    images = [image for example in examples for image in example.images]
    # Visual tokens of samples that the decoder does not see have no places.
    seen = [np.full(image.tokens, bool(len(e.ids))) for e in examples for image in e.images]
    patches = [torch.from_numpy(image.patches) for image in images]
    return Batch(
        ids=torch.from_numpy(ids) if read else torch.zeros(1, dtype=torch.int64),
        positions=torch.from_numpy(np.concatenate([positions(*sample) for sample in zip(lengths, turns, strict=True)])),
        lengths=lengths,
        turns=turns,
        places=torch.from_numpy(np.flatnonzero(ids == image_token_id)),
        taken=torch.from_numpy(np.flatnonzero(np.concatenate([np.empty(0, bool), *seen]))),
        predict_from=torch.from_numpy(learnt - 1),
        targets=torch.from_numpy(labels[learnt]),
        weights=torch.from_numpy(_weights(learnt, answer_balance)),
        patches=torch.cat(patches) if patches else torch.zeros(_FILLER.patches, patch_dim),
        frames=tuple(FrameShape(image.grid, image.merge_size) for image in images) or (_FILLER,),
        real_frames=bool(images),
        samples=len(examples),
        size=sum(len(example.ids) or sum(image.tokens for image in example.images) for example in examples),
        unusable=tuple(unusable),
    )


def _weights(learnt: Int64Array, balance: float) -> Float32Array:
    """n ** -balance for each learnt position, in a run of n of them; float32 [K]."""
    starts = np.flatnonzero(np.diff(learnt, prepend=-2) != 1)
    lengths = np.diff(starts, append=len(learnt))
    return np.repeat(lengths, lengths).astype(np.float32) ** np.float32(-balance)


def _first_tokens(lengths: Sequence[int], turns: Sequence[Sequence[int]]) -> list[int]:
    """Places of tokens that do not follow the one before: the first of each sample, and of turns that stand apart."""
    first, start = [], 0
    for length, of_sample in zip(lengths, turns, strict=True):
        first.append(start)
        start += length
        first += [start - sum(of_sample[i:]) for i in range(len(of_sample))]
    return first
