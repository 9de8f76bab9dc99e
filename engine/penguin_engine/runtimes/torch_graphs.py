"""The torch runtime's KV cache, and its decoding steps in fixed shapes, which a GPU records once and launches whole.

A decoder of many layers launches hundreds of small kernels a token; on a GPU that takes longer than the work itself.
A CUDA graph launches them as one, but its shapes and addresses never change: the token, its position and the cache lie
in tensors of their own, and attention runs over the first 512, 1024, 2048, ... rows of the cache behind a mask, one
recorded step for each of these lengths. What records is given by the caller; nothing else here depends on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import DynamicLayer

from penguin_models.vlm import PenguinVL

FIRST_ROWS = 512
"""Rows of the cache that the shortest recorded step sees; each longer one sees twice as many."""

Work = Callable[[], Tensor]
Recorder = Callable[[Work], Work]
"""Takes work of fixed shapes and gives what repeats it on the same tensors."""


class ReservedCache:
    """The layers of a cache in memory reserved once.

    Args:
        layers: of the decoder.
        capacity: in tokens.
        zeroed: whether the memory is cleared, which steps of fixed shapes need: what a mask hides must be numbers.
    """

    def __init__(self, layers: int, capacity: int, zeroed: bool):
        self.capacity = capacity
        self.layers = [_ReservedLayer(capacity, zeroed) for _ in range(layers)]
        self.cache: Any = TransformersCache(layers=self.layers)

    @property
    def length(self) -> int:
        """Tokens held."""
        return int(self.cache.get_seq_length())

    def show(self, length: int) -> None:
        """Makes the first `length` rows the ones that are held."""
        for layer in self.layers:
            layer.show(length)

    def fix(self, position: Tensor | None, rows: int = 0) -> None:
        """From now on steps write at this position, int64 [1], and see so many rows; None ends that."""
        for layer in self.layers:
            layer.position, layer.rows = position, rows


class DecodingSteps:
    """Decoding steps of one cache in fixed shapes.

    Args:
        model: the model.
        reserved: its cache, with zeroed memory.
        record: what records a step.
    """

    def __init__(self, model: PenguinVL, reserved: ReservedCache, record: Recorder):
        self._model, self._reserved, self._record = model, reserved, record
        device = model.device
        self._token = torch.zeros((1, 1), dtype=torch.int64, device=device)
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = torch.arange(reserved.capacity, device=device)
        self._recorded: dict[int, Work] = {}

    def run(self, token: int) -> Tensor:
        """Puts one token behind what is held, which must not be nothing.

        Returns:
            Logits [vocab]; the next step overwrites them.
        """
        length = self._reserved.length
        self._token.fill_(token)
        self._position.fill_(length)
        rows = self._rows(length + 1)
        if rows not in self._recorded:
            self._recorded[rows] = self._record(lambda: self._step(rows))
        logits = self._recorded[rows]()
        self._reserved.show(length + 1)
        return logits

    def _rows(self, length: int) -> int:
        rows = FIRST_ROWS
        while rows < length:
            rows *= 2
        return min(rows, self._reserved.capacity)

    def _step(self, rows: int) -> Tensor:
        self._reserved.fix(self._position, rows)
        try:
            output = self._model.language_model(
                inputs_embeds=self._model.embed_tokens(self._token),
                attention_mask=(self._places[:rows] <= self._position)[None, None, None],  # [1, 1, 1, rows]
                position_ids=self._position[None],
                past_key_values=self._reserved.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        finally:
            self._reserved.fix(None)
        logits: Tensor = output.logits[0, -1]
        return logits


class _ReservedLayer(DynamicLayer):  # type: ignore[misc]
    """transformers' growing cache layer, growing inside memory that is reserved once."""

    def __init__(self, capacity: int, zeroed: bool):
        super().__init__()
        self._capacity, self._zeroed = capacity, zeroed
        self.position: Tensor | None = None
        self.rows = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserves the memory when the first keys show its shape and type."""
        self.dtype, self.device = key_states.dtype, key_states.device
        batch, heads, _, width = key_states.shape
        reserve = key_states.new_zeros if self._zeroed else key_states.new_empty
        self._key_memory, self._value_memory = reserve((2, batch, heads, self._capacity, width))
        self.is_initialized = True
        self.show(0)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes behind what is held, or at the fixed position; the result are views."""
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
        self.show(end)
        return self.keys, self.values

    def show(self, length: int) -> None:
        """Makes the first `length` rows the ones that are held."""
        if self.is_initialized:
            self.keys, self.values = self._key_memory[:, :, :length], self._value_memory[:, :, :length]


class CudaGraphRecorder:
    """Records CUDA graphs; those of one recorder share the memory in which their work is done.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._pool: Any = None

    def __call__(self, work: Work) -> Work:
        """Runs the work once, so that libraries reserve what they need, and records it."""
        with torch.cuda.device(self._device):
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            aside, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                work()
            current.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use CUDA meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = work()

        def repeat() -> Tensor:
            graph.replay()
            return result

        return repeat
