"""The torch runtime's KV-cache tensors, and decoding steps of fixed shapes that a GPU records once and replays.

A decoder of many layers launches hundreds of small kernels per token, which on a GPU takes longer than the work itself.
A CUDA graph launches them as one, but its shapes and addresses never change. Therefore the token, its position and the
cache have tensors of their own, and attention covers the first 512, 1024, 2048, ... rows of the cache under a mask,
with one recorded step for each of these sizes. The caller chooses the recorder; nothing else here depends on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import DynamicLayer

from penguin_models.vlm import PenguinVL

FIRST_ROWS = 512
"""Rows of the cache that the shortest recorded step covers; each longer step covers twice as many."""

Work = Callable[[], Tensor]
Recorder = Callable[[Work], Work]
"""Takes work of fixed shapes and returns a function that repeats it on the same tensors."""


class CacheTensors:
    """Keys and values of all layers in memory that is reserved once, by the first step; `cache` is for transformers.

    Steps of fixed shapes need `zeroed` memory, because values that they mask must not be NaN.
    """

    def __init__(self, layers: int, capacity: int, zeroed: bool):
        self.capacity = capacity
        self.layers = [_ReservedLayer(capacity, zeroed) for _ in range(layers)]
        self.cache: Any = TransformersCache(layers=self.layers)

    def set_length(self, length: int) -> None:
        """Makes the first `length` rows the cached ones."""
        for layer in self.layers:
            layer.set_length(length)

    @contextmanager
    def fixed_position(self, position: Tensor, rows: int) -> Iterator[None]:
        """Lets steps write at a position, int64 [1], and read the first `rows` rows, whatever the length is."""
        for layer in self.layers:
            layer.position, layer.rows = position, rows
        try:
            yield
        finally:
            for layer in self.layers:
                layer.position = None


class DecodingSteps:
    """Decoding steps of fixed shapes for one cache, whose memory must be zeroed."""

    def __init__(self, model: PenguinVL, tensors: CacheTensors, record: Recorder):
        self._model, self._tensors, self._record = model, tensors, record
        device = model.device
        self._token = torch.zeros((1, 1), dtype=torch.int64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = torch.arange(tensors.capacity, device=device)
        self._recorded: dict[int, Work] = {}

    def run(self, token: int, length: int) -> Tensor:
        """Appends one token to `length` cached tokens, of which there must be at least one.

        Returns:
            Logits [vocab], which the next step overwrites.
        """
        self._token.fill_(token)
        self._position.fill_(length)
        rows = min(max(FIRST_ROWS, 1 << length.bit_length()), self._tensors.capacity)
        if rows not in self._recorded:
            self._recorded[rows] = self._record(lambda: self._step(rows))
        logits = self._recorded[rows]()
        self._tensors.set_length(length + 1)
        return logits

    def _step(self, rows: int) -> Tensor:
        with self._tensors.fixed_position(self._position, rows):
            output = self._model.language_model(
                inputs_embeds=self._model.embed_tokens(self._token),
                attention_mask=(self._places[:rows] <= self._position)[None, None, None],  # [1, 1, 1, rows]
                position_ids=self._position[None],
                past_key_values=self._tensors.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[0, -1]
        return logits


class _ReservedLayer(DynamicLayer):  # type: ignore[misc]
    """A transformers cache layer that grows inside memory that is reserved once."""

    def __init__(self, capacity: int, zeroed: bool):
        super().__init__()
        self._capacity, self._zeroed = capacity, zeroed
        self.position: Tensor | None = None
        self.rows = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserves the memory when the first keys reveal shape and type."""
        self.dtype, self.device = key_states.dtype, key_states.device
        batch, heads, _, width = key_states.shape
        reserve = key_states.new_zeros if self._zeroed else key_states.new_empty
        self._key_memory, self._value_memory = reserve((2, batch, heads, self._capacity, width))
        self.is_initialized = True
        self.set_length(0)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes after the cached tokens, or at the fixed position; returns views of the keys and values to read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.position is not None:
            self._key_memory.index_copy_(2, self.position, key_states)
            self._value_memory.index_copy_(2, self.position, value_states)
            return self._key_memory[:, :, : self.rows], self._value_memory[:, :, : self.rows]
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        self._key_memory[:, :, start:end] = key_states
        self._value_memory[:, :, start:end] = value_states
        self.set_length(end)
        return self.keys, self.values

    def set_length(self, length: int) -> None:
        """Makes the first `length` rows the cached ones."""
        if self.is_initialized:
            self.keys, self.values = self._key_memory[:, :, :length], self._value_memory[:, :, :length]


class CudaGraphRecorder:
    """Records CUDA graphs, which share one memory pool for their intermediate results."""

    def __init__(self, device: torch.device):
        self._device = device
        self._pool: Any = None

    def __call__(self, work: Work) -> Work:
        """Runs the work once, so that libraries allocate what they need, and records it."""
        with torch.cuda.device(self._device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            side, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
            side.wait_stream(current)
            with torch.cuda.stream(side):
                work()
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Thread-local, because other threads may use CUDA meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = work()

        def repeat() -> Tensor:
            graph.replay()
            return result

        return repeat
