"""torch's antialiased bilinear resize for sides that hardly change: less work, and the same bits.

Neighbouring outputs then weigh neighbouring inputs: in a run of outputs, output i reads the inputs i + 0, i + 1, ... of
its run. So a side is resized by a few multiply-adds of whole shifted pictures: first the columns, then the rows, in
bands that stay in the processor's cache. The weights are read off torch's own resize and summed in its order, so that
nothing is rounded differently. It knows nothing of what the pixels are for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from penguin_models.types import Int64Array, Size, UInt8Array

CHANNELS = 3
_MAX_RATIO = 1.1
"""Beyond it runs get too short to pay; beyond 1.5 torch sums in another order."""
BAND_ROWS = 28
"""Output rows of a band."""
_FEW = 8
"""A tap that only so many columns have is not worth a pass over all of them."""


def resize(rgb: UInt8Array, size: Size) -> UInt8Array:
    """Antialiased bilinear resize of [H, W, 3] by torch, truncated to uint8 [h, w, 3]."""
    planes = _tensor(rgb).permute(2, 0, 1).contiguous().float()
    resized = F.interpolate(planes[None], size=tuple(size), mode="bilinear", antialias=True)[0]
    return resized.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


class BandedResize:
    """`resize` for frames of one size, all of it or some bands, in buffers that are allocated once."""

    @staticmethod
    def suits(source_size: Size, size: Size) -> bool:
        """Whether both sides change so little that this way is exact and fast."""
        return all(max(a / b, b / a) <= _MAX_RATIO for a, b in zip(source_size, size, strict=True))

    def __init__(self, source_size: Size, size: Size, bands: slice = slice(None)):
        """Prepares it.

        Args:
            native: of the frames.
            size: wanted.
            bands: which bands of `BAND_ROWS` output rows.
        """
        columns, run, self._stride = _in_runs(source_size.width, size.width)
        self._bands = list(_in_bands(_Taps.of_torch(source_size.height, size.height)))[bands]
        self._native, self._size, self._left = source_size, size, -int(columns.start[0])
        runs = math.ceil(size.width / run)
        tall = max(band.inputs for band in self._bands)
        wide = max(self._left + source_size.width, (runs - 1) * self._stride + run + len(columns) - 1)
        weights = F.pad(columns.weights, (0, runs * run - size.width)).repeat_interleave(CHANNELS, dim=1)
        self._pixels = torch.zeros(tall, wide * CHANNELS)
        self._narrowed = torch.empty(tall, runs * run * CHANNELS)
        self._narrowing = list(self._sums_of_columns(weights.view(len(columns), runs, -1)))
        self._resized = torch.empty(BAND_ROWS, size.width * CHANNELS)
        self._rgb = np.empty((BAND_ROWS, size.width, CHANNELS), np.uint8)

    def __call__(self, rgb: UInt8Array) -> Iterator[UInt8Array]:
        """uint8 [H, W, 3] -> its bands one by one, [rows, w, 3], truncated; each is valid until the next."""
        rows, left = _tensor(rgb).flatten(1), self._left * CHANNELS
        narrowed = self._narrowed[:, : self._size.width * CHANNELS]
        for band in self._bands:
            first, last = max(band.start, 0), min(band.start + band.inputs, self._native.height)
            pixels = self._pixels[first - band.start : last - band.start]
            pixels[:, left : left + rows.shape[1]].copy_(rows[first:last])
            for columns in self._narrowing:
                columns()
            resized = self._resized[: band.outputs]
            _Sum(resized, [narrowed[tap : tap + band.outputs] for tap in range(len(band.weights))], band.weights)()
            np.copyto(self._rgb[: band.outputs].reshape(band.outputs, -1), resized.numpy(), casting="unsafe")
            yield self._rgb[: band.outputs]

    def _sums_of_columns(self, weights: Tensor) -> Iterator[_Sum]:
        """How the pixels of a band become its narrowed rows: all columns by the taps that most of them have.

        The columns that also have others, a few at the ends of runs, are then summed again.

        Args:
            weights: [taps, runs, run * 3].
        """
        taps, runs, run = weights.shape
        strides = (self._pixels.shape[1], self._stride * CHANNELS, 1)
        shape = (len(self._pixels), runs, run)
        shifted = [self._pixels.as_strided(shape, strides, tap * CHANNELS) for tap in range(taps)]
        narrowed = self._narrowed.view(shape)
        count = weights[..., ::CHANNELS].count_nonzero((1, 2)).tolist()
        common = [tap for tap in range(taps) if count[tap] > _FEW] or list(range(taps))
        yield _Sum(narrowed, [shifted[tap] for tap in common], weights[common])
        rare = [tap for tap in range(taps) if tap not in common]
        for run_number, column in weights[rare, :, ::CHANNELS].any(0).nonzero().tolist():
            here = (slice(None), run_number, slice(column * CHANNELS, (column + 1) * CHANNELS))
            yield _Sum(narrowed[here], [part[here] for part in shifted], weights[:, run_number, here[2]])


def _tensor(rgb: UInt8Array) -> Tensor:
    """The same memory; of an array that must not be written to a copy, for torch has no such tensors and warns."""
    return torch.from_numpy(rgb if rgb.flags.writeable else rgb.copy())


@dataclass(frozen=True)
class _Sum:
    """A sum of tensors, each times its weights, rounded as torch's resize does (fused where it fuses)."""

    out: Tensor
    parts: Sequence[Tensor]
    weights: Tensor

    def __call__(self) -> None:
        torch.mul(self.parts[0], self.weights[0], out=self.out)
        for part, weight in zip(self.parts[1:], self.weights[1:], strict=True):
            self.out.addcmul_(part, weight)


@dataclass(frozen=True)
class _Taps:
    """One side of a resize: output i is the sum over t of weights[t, i] * input[start[i] + t]."""

    start: Int64Array  # [outputs]
    weights: Tensor  # [taps, outputs]

    def __len__(self) -> int:
        return len(self.weights)

    @classmethod
    def of_torch(cls, source_size: int, size: int) -> _Taps:
        """What torch gives to each input, found by resizing combs: one tooth in reach of each output."""
        reach = max(source_size / size, 1.0)
        start = np.floor((np.arange(size) + 0.5) * source_size / size - reach).astype(np.int64)
        taps = 2 * math.ceil(reach) + 2
        combs = (torch.arange(source_size) % taps == torch.arange(taps)[:, None]).float()
        seen = F.interpolate(combs[None, None], size=(taps, size), mode="bilinear", antialias=True)[0, 0]
        tooth = (start + np.arange(taps)[:, None]) % taps
        return cls(start, seen.gather(0, torch.from_numpy(tooth)))

    def aligned(self, pattern: Int64Array) -> _Taps:
        """The same sums with starts that differ from the pattern by one constant; weights of 0 fill up."""
        shift = self.start - pattern
        weights = torch.zeros(len(self) + int(np.ptp(shift)), len(shift))
        rows = torch.from_numpy(shift - shift.min() + np.arange(len(self))[:, None])
        weights.scatter_(0, rows, self.weights)
        used = weights.any(dim=1).nonzero()[:, 0]
        first, last = int(used[0]), int(used[-1])
        return _Taps(pattern + shift.min() + first, weights[first : last + 1])


@dataclass(frozen=True)
class _Band:
    """Output rows first, first + 1, ...: row i is the sum over t of weights[t, i] * input row start + i + t."""

    first: int
    start: int
    weights: Tensor  # [taps, outputs, 1]

    @property
    def outputs(self) -> int:
        return self.weights.shape[1]

    @property
    def inputs(self) -> int:
        return self.outputs + len(self.weights) - 1


def _in_bands(taps: _Taps) -> Iterator[_Band]:
    """Rows in bands of which each starts where it needs to."""
    for first in range(0, len(taps.start), BAND_ROWS):
        band = slice(first, first + BAND_ROWS)
        rows = _Taps(taps.start[band], taps.weights[:, band])
        rows = rows.aligned(np.arange(len(rows.start)))
        yield _Band(first, int(rows.start[0]), rows.weights[..., None])


def _in_runs(source_size: int, size: int) -> tuple[_Taps, int, int]:
    """Columns in equal runs at equal distances; also the outputs of a run, and its distance to the next in inputs.

    A run is as long as it takes outputs and inputs to get apart by one.
    """
    apart = source_size - size
    run = size if apart == 0 else round(size / abs(apart))
    stride = run + (apart > 0) - (apart < 0)
    index = np.arange(size)
    return _Taps.of_torch(source_size, size).aligned(index // run * stride + index % run), run, stride
