"""torch's antialiased bilinear resize for sides that hardly change: less work, the same bits.

Neighbouring outputs then weigh neighbouring inputs: inside a run of outputs, output i reads the inputs i, i + 1, ... of
the run. A side is thus resized by a few multiply-adds of whole shifted images: first the columns, then the rows, in
bands that stay in the processor's cache. The weights are read from torch's own resize and summed in its order, so that
nothing is rounded differently.
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

BAND_ROWS = 28
"""Output rows of a band."""
_CHANNELS = 3
_MAX_RATIO = 1.1
"""Above it, runs get too short to pay off; above 1.5, torch sums in another order."""


def resize(rgb: UInt8Array, size: Size) -> UInt8Array:
    """Resizes [H, W, 3] with torch (bilinear, antialiased) and truncates to uint8 [h, w, 3]."""
    planes = _tensor(rgb).permute(2, 0, 1).contiguous().float()
    resized = F.interpolate(planes[None], size=tuple(size), mode="bilinear", antialias=True)[0]
    return resized.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


class BandedResize:
    """`resize` for frames of one size, for all or some bands of rows, in preallocated buffers."""

    @staticmethod
    def suits(source_size: Size, size: Size) -> bool:
        """Returns whether both sides change so little that this class is exact and fast."""
        return all(max(a / b, b / a) <= _MAX_RATIO for a, b in zip(source_size, size, strict=True))

    def __init__(self, source_size: Size, size: Size, bands: slice = slice(None)):
        self._source_size, self._size = source_size, size
        rows = _Taps.of_torch(source_size.height, size.height)
        self._bands = [rows.band(first) for first in range(0, size.height, BAND_ROWS)[bands]]
        columns, run, stride = _in_runs(source_size.width, size.width)
        runs, taps = math.ceil(size.width / run), len(columns.weights)
        self._left = -int(columns.start[0])
        tall = max(band.inputs for band in self._bands)
        wide = max(self._left + source_size.width, (runs - 1) * stride + run + taps - 1)
        self._pixels = torch.zeros(tall, wide * _CHANNELS)
        self._narrowed = torch.empty(tall, runs, run * _CHANNELS)
        strides = (wide * _CHANNELS, stride * _CHANNELS, 1)
        self._shifted = [self._pixels.as_strided(self._narrowed.shape, strides, t * _CHANNELS) for t in range(taps)]
        weights = F.pad(columns.weights, (0, runs * run - size.width)).repeat_interleave(_CHANNELS, dim=1)
        self._column_weights = weights.view(taps, runs, -1)
        self._resized = torch.empty(BAND_ROWS, size.width * _CHANNELS)
        self._rgb = np.empty((BAND_ROWS, size.width, _CHANNELS), np.uint8)

    def __call__(self, rgb: UInt8Array) -> Iterator[UInt8Array]:
        """Yields the bands of uint8 [H, W, 3] as [rows, w, 3], truncated; each is valid until the next one."""
        source = _tensor(rgb).flatten(1)
        left = self._left * _CHANNELS
        narrowed = self._narrowed.flatten(1)[:, : self._size.width * _CHANNELS]
        for band in self._bands:
            start, outputs = int(band.start[0]), len(band.start)
            first, last = max(start, 0), min(start + band.inputs, self._source_size.height)
            self._pixels[first - start : last - start, left : left + source.shape[1]].copy_(source[first:last])
            _weighted_sum(self._shifted, self._column_weights, self._narrowed)
            shifted = [narrowed[tap : tap + outputs] for tap in range(len(band.weights))]
            _weighted_sum(shifted, band.weights[..., None], self._resized[:outputs])
            resized = self._rgb[:outputs]
            np.copyto(resized.reshape(outputs, -1), self._resized[:outputs].numpy(), casting="unsafe")
            yield resized


def _tensor(rgb: UInt8Array) -> Tensor:
    """Shares memory with the array, or copies it if it is read-only, which torch tensors cannot be."""
    return torch.from_numpy(rgb if rgb.flags.writeable else rgb.copy())


def _weighted_sum(parts: Sequence[Tensor], weights: Tensor, out: Tensor) -> None:
    """Sums tensors times their weights in the order of torch's resize, with its fused multiply-adds."""
    torch.mul(parts[0], weights[0], out=out)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        out.addcmul_(part, weight)


@dataclass(frozen=True)
class _Taps:
    """One side of a resize: output i is the sum over t of weights[t, i] * input[start[i] + t]."""

    start: Int64Array  # [outputs]
    weights: Tensor  # [taps, outputs]

    @property
    def inputs(self) -> int:
        """Number of inputs if each output starts one input after the one before."""
        return len(self.start) + len(self.weights) - 1

    @classmethod
    def of_torch(cls, source_size: int, size: int) -> _Taps:
        """Reads torch's weights by resizing combs that have one tooth in reach of each output."""
        reach = max(source_size / size, 1.0)
        start = np.floor((np.arange(size) + 0.5) * source_size / size - reach).astype(np.int64)
        taps = 2 * math.ceil(reach) + 2
        combs = (torch.arange(source_size) % taps == torch.arange(taps)[:, None]).float()
        seen = F.interpolate(combs[None, None], size=(taps, size), mode="bilinear", antialias=True)[0, 0]
        tooth = (start + np.arange(taps)[:, None]) % taps
        return cls(start, seen.gather(0, torch.from_numpy(tooth)))

    def band(self, first: int) -> _Taps:
        """Returns the taps of the band that begins at output `first`; each output starts one input after the last."""
        band = slice(first, first + BAND_ROWS)
        return _Taps(self.start[band], self.weights[:, band]).aligned(np.arange(len(self.start[band])))

    def aligned(self, pattern: Int64Array) -> _Taps:
        """Returns the same sums with starts that equal the pattern plus a constant, padded with weights of 0."""
        shift = self.start - pattern
        weights = torch.zeros(len(self.weights) + int(np.ptp(shift)), len(shift))
        rows = torch.from_numpy(shift - shift.min() + np.arange(len(self.weights))[:, None])
        weights.scatter_(0, rows, self.weights)
        used = weights.any(dim=1).nonzero()[:, 0]
        first, last = int(used[0]), int(used[-1])
        return _Taps(pattern + shift.min() + first, weights[first : last + 1])


def _in_runs(source_size: int, size: int) -> tuple[_Taps, int, int]:
    """Splits columns into runs of equal length and distance: (taps, outputs of a run, inputs from a run to the next).

    A run ends where outputs and inputs have drifted apart by one.
    """
    drift = source_size - size
    run = size if drift == 0 else round(size / abs(drift))
    stride = run + (drift > 0) - (drift < 0)
    index = np.arange(size)
    return _Taps.of_torch(source_size, size).aligned(index // run * stride + index % run), run, stride
