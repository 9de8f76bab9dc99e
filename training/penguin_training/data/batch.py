"""Encoded samples -> one packed micro-batch: a single sequence without padding, and what is where in it.

Axes: T tokens of all samples, one after the other; P visual tokens in the sequence; V visual tokens of all frames;
N patches; K positions that are learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from penguin_models.encoder import FrameShape
from penguin_models.errors import PenguinError
from penguin_models.processor import IGNORE_INDEX, Processor
from penguin_models.types import Float32Array, Int64Array, Size
from penguin_training.data.annotations import Annotation
from penguin_training.data.independent_turns import turn_positions
from penguin_training.data.questions import Question
from penguin_training.data.sample_reader import EncodedSample, MeasuredSample, SampleReader

_FILLER = FrameShape(Size(2, 2), 2)


@dataclass(frozen=True, eq=False)
class Batch:
    """A micro-batch.

    It always holds a token and a frame, so that every process runs every part of the model in every step: if the
    samples have none, a filler takes their place, from which nothing is learnt.
    """

    ids: Tensor  # int64 [T]
    positions: Tensor  # int64 [T], from 0 in every sample
    lengths: tuple[int, ...]  # Tokens of each sample
    turns: tuple[tuple[int, ...], ...]  # Tokens of each independent turn, by sample; see `EncodedSample`
    visual_positions: Tensor  # int64 [P], positions of visual tokens in the sequence
    visual_rows: Tensor  # int64 [P], rows of [V] that go there
    predict_from: Tensor  # int64 [K], positions whose next token is learnt
    targets: Tensor  # int64 [K], those next tokens
    weights: Tensor  # float32 [K], their weights in the loss, see `DataSettings.answer_balance`
    patches: Tensor  # float32 [N, C*P*P]
    frames: tuple[FrameShape, ...]  # Shape of each frame
    real_frames: bool  # Whether the frames belong to samples, not to a filler
    samples: int  # Number of samples
    size: int  # What they take of the token budget
    unusable: tuple[tuple[str, str], ...] = ()  # (id, reason) of samples that were left out
    dropped_turns: int = 0  # Turns that samples leave out, see `Annotation.dropped_turns`
    position: tuple[int, ...] = ()  # Where the reader of a stream is after this batch; empty for indexed data
    # Of a stage with rewards, see post_training/rollouts.py:
    questions: tuple[Question, ...] = ()  # What each independent turn asks, in order
    shares: Tensor | None = None  # float32 [K], what each token counts; those of one sampled answer sum to 1
    reference: Tensor | None = None  # float32 [K], log-probabilities of the targets before training
    sums: dict[str, float] = field(default_factory=dict)  # Sums over sampled answers, for metrics

    @property
    def frame_tokens(self) -> list[int]:
        """Visual tokens of each frame."""
        return [frame.patches // frame.merge_size**2 for frame in self.frames]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: torch.device) -> Batch:
        """Returns a copy with its tensors on a device."""
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors.items()})  # type: ignore[arg-type]

    def pin_memory(self) -> Batch:
        """Returns a copy in page-locked memory; called by torch's DataLoader."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self.tensors.items()})  # type: ignore[arg-type]


def read_batch(
    reader: SampleReader, samples: Iterable[tuple[Annotation, MeasuredSample]], unusable: Sequence[tuple[str, str]] = ()
) -> Batch:
    """Reads samples into one micro-batch; those that cannot be read are left out and named after `unusable`."""
    encoded, left_out = [], list(unusable)
    for annotation, measured in samples:
        try:
            encoded.append(reader.encode(annotation, measured))
        except PenguinError as err:
            left_out.append((annotation.id, str(err)))
    return collate(encoded, reader.processor, left_out, reader.data.answer_balance)


def collate(
    samples: Sequence[EncodedSample],
    processor: Processor,
    unusable: Sequence[tuple[str, str]] = (),
    answer_balance: float = 0.0,
) -> Batch:
    """Packs samples (there may be none) into one micro-batch; `unusable` names those that were left out."""
    sequences = [sample for sample in samples if len(sample.ids)]
    ids = np.concatenate([np.empty(0, np.int64), *(sample.ids for sample in sequences)])
    labels = np.concatenate([np.empty(0, np.int64), *(sample.labels for sample in sequences)])
    lengths = tuple(len(sample.ids) for sample in sequences) or (1,)
    turns = tuple(sample.turns for sample in sequences) or ((),)
    if sequences:
        labels[_first_tokens(lengths, turns)] = IGNORE_INDEX
    learnt = np.flatnonzero(labels != IGNORE_INDEX)
    images = [image for sample in samples for image in sample.images]
    # Visual tokens of samples that the decoder does not see are not in the sequence.
    in_sequence = [np.full(image.tokens, bool(len(s.ids))) for s in samples for image in s.images]
    patches = [torch.from_numpy(image.patches) for image in images]
    patch_dim = 3 * processor.images.patch_size**2
    return Batch(
        ids=torch.from_numpy(ids) if sequences else torch.zeros(1, dtype=torch.int64),
        positions=torch.from_numpy(np.concatenate([*map(turn_positions, lengths, turns)])),
        lengths=lengths,
        turns=turns,
        visual_positions=torch.from_numpy(np.flatnonzero(ids == processor.image_token_id)),
        visual_rows=torch.from_numpy(np.flatnonzero(np.concatenate([np.empty(0, bool), *in_sequence]))),
        predict_from=torch.from_numpy(learnt - 1),
        targets=torch.from_numpy(labels[learnt]),
        weights=torch.from_numpy(_weights(learnt, answer_balance)),
        patches=torch.cat(patches) if patches else torch.zeros(_FILLER.patches, patch_dim),
        frames=tuple(FrameShape(image.grid, image.merge_size) for image in images) or (_FILLER,),
        real_frames=bool(images),
        samples=len(samples),
        size=sum(len(sample.ids) or sum(image.tokens for image in sample.images) for sample in samples),
        unusable=tuple(unusable),
        dropped_turns=sum(sample.dropped_turns for sample in samples),
        questions=tuple(question for sample in samples for question in sample.questions),
    )


def _weights(learnt: Int64Array, balance: float) -> Float32Array:
    """Returns n ** -balance for each learnt position in a run of n consecutive ones: float32 [K]."""
    starts = np.flatnonzero(np.diff(learnt, prepend=-2) != 1)
    lengths = np.diff(starts, append=len(learnt))
    return np.repeat(lengths, lengths).astype(np.float32) ** np.float32(-balance)


def _first_tokens(lengths: Sequence[int], turns: Sequence[Sequence[int]]) -> list[int]:
    """Returns the positions that no token predicts: the first of each sample and of each independent turn."""
    first, start = [], 0
    for length, sample_turns in zip(lengths, turns, strict=True):
        first.append(start)
        start += length
        first += [start - sum(sample_turns[i:]) for i in range(len(sample_turns))]
    return first
