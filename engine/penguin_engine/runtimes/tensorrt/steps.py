"""Runs compiled plans: frames through the vision plan, chunks and single tokens through the decoder's.

Inputs alternate between two sets of page-locked memory, one being filled while the other is in transit. Of a decoding
step, the transfer of inputs, the plan and the transfer of logits are recorded once per cache bucket and launched as one
graph. Each graph has an execution context of its own, as NVIDIA advises; the cache is extended after the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from penguin_engine.export.manifest import Manifest
from penguin_engine.runtimes.exported import STORAGE, TOKENS_PER_STEP, Array, EmbeddingTable, SegmentSlice, VisionPass
from penguin_engine.runtimes.tensorrt.cache_memory import Addresses, CacheMemory
from penguin_engine.runtimes.tensorrt.cuda_device import CudaDevice, DeviceMemory
from penguin_engine.runtimes.tensorrt.cuda_graph import CudaGraph
from penguin_engine.runtimes.tensorrt.loaded_plan import LoadedPlan, PlanExecution
from penguin_engine.runtimes.tensorrt.shapes import BATCH, DECODE, PREFILL, SINGLE, ShapeProfile
from penguin_models.types import Float32Array


@dataclass(frozen=True, eq=False)
class DeviceVisualTokens:
    """Visual tokens [length, hidden] in GPU memory."""

    memory: DeviceMemory
    length: int
    first: int = 0  # number of the first of these tokens in the memory

    def part(self, start: int, stop: int) -> DeviceVisualTokens:
        """See `VisualTokens.part`."""
        return DeviceVisualTokens(self.memory, stop - start, self.first + start)


class VisionSteps:
    """Runs the vision plan."""

    def __init__(self, plan: LoadedPlan, manifest: Manifest, profiles: Sequence[ShapeProfile], gpu: CudaDevice):
        self._executions = [plan.execution(index) for index in range(len(profiles))]
        self._gpu = gpu
        self._token_bytes = manifest.decoder.hidden * np.dtype(STORAGE[manifest.dtype]).itemsize
        sizes: dict[str, int] = {}
        for profile in profiles:
            for name, shape in profile.items():
                size = int(np.prod(shape.maximum)) * (4 if name == "patches" else 8)
                sizes[name] = max(sizes.get(name, 0), size)
        self._stages = cycle([_InputStage(sizes, gpu) for _ in range(2)])

    def run(self, vision_pass: VisionPass) -> list[DeviceVisualTokens]:
        """Returns the visual tokens of each image of a pass, while the GPU still works."""
        stage = next(self._stages)
        stage.wait()
        for name, values in vision_pass.inputs.items():
            stage.send(name, values)
        total = self._gpu.allocate(sum(vision_pass.tokens) * self._token_bytes)
        shapes = {name: values.shape for name, values in vision_pass.inputs.items()}
        profile = SINGLE if len(vision_pass.indices) == 1 else BATCH
        self._executions[profile].run(shapes, stage.addresses() | {"tokens": int(total)})
        encoded, start = [], int(total)
        for count in vision_pass.tokens:
            # Copied, because a view would keep the tokens of all images of the pass alive.
            own = self._gpu.allocate(count * self._token_bytes)
            self._gpu.copy(int(own), start, count * self._token_bytes)
            encoded.append(DeviceVisualTokens(own, count))
            start += count * self._token_bytes
        stage.mark(total)
        return encoded


class DecoderSteps:
    """Runs the decoder's plan with the memory that all caches share."""

    def __init__(self, plan: LoadedPlan, manifest: Manifest, table: EmbeddingTable, gpu: CudaDevice):
        self._plan, self._gpu, self._table, self._manifest = plan, gpu, table, manifest
        self._prefill = plan.execution(PREFILL)
        self._hidden = manifest.decoder.hidden
        self._dtype = np.dtype(STORAGE[manifest.dtype])
        self._row_bytes = self._hidden * self._dtype.itemsize
        sizes = {"embeddings": TOKENS_PER_STEP * self._row_bytes, "positions": TOKENS_PER_STEP * 8}
        self._stages = cycle([_InputStage(sizes, gpu) for _ in range(2)])
        self._single = _InputStage({"embeddings": self._row_bytes, "positions": 8}, gpu)
        self._logits = gpu.allocate(4 * manifest.decoder.vocab)
        self._logits_host: Float32Array = gpu.page_locked((manifest.decoder.vocab,), np.float32)

    def open_memory(self, max_length: int) -> CacheMemory:
        """Allocates the memory of a cache."""
        itemsize = np.dtype(STORAGE[self._manifest.cache_dtype]).itemsize
        return CacheMemory(self._manifest.decoder, max_length, itemsize, self._gpu)

    def prefill(self, chunk: Sequence[SegmentSlice], length: int, memory: CacheMemory) -> int:
        """Appends a chunk to `length` tokens and returns its number of tokens, while the GPU still works."""
        stage = next(self._stages)
        stage.wait()
        count = chunk[-1].offset + chunk[-1].length
        rows = np.zeros((count, self._hidden), self._dtype)
        for span in chunk:
            if isinstance(span.segment, Sequence):
                ids = span.segment[span.start : span.start + span.length]
                rows[span.offset : span.offset + span.length] = self._table.rows(ids)
        stage.send("embeddings", rows)
        stage.send("positions", np.arange(length, length + count))
        embeddings = stage.addresses()["embeddings"]
        for span in chunk:
            if isinstance(span.segment, DeviceVisualTokens):
                source = int(span.segment.memory) + (span.segment.first + span.start) * self._row_bytes
                target = embeddings + span.offset * self._row_bytes
                self._gpu.copy(target, source, span.length * self._row_bytes)
        memory.prepare(length)
        self._execute(self._prefill, count, length, stage.addresses(), memory)
        memory.extend(length, count)
        stage.mark(chunk)
        self._gpu.to_host(self._logits_host, int(self._logits))
        return count

    def decode(self, token: int, length: int, memory: CacheMemory, recorded: dict[int, CudaGraph]) -> None:
        """Appends one token to `length` tokens. The first step of each bucket runs directly and is then recorded."""
        stage = self._single
        stage.write("embeddings", self._table.rows([token]))
        stage.write("positions", np.array([length]))
        memory.prepare(length)

        bucket = memory.bucket(length)
        if bucket in recorded:
            recorded[bucket].launch()
        else:
            execution = self._plan.execution(DECODE, recorded=True)

            def step() -> None:
                stage.send_written()
                self._execute(execution, 1, length, stage.addresses(), memory)
                self._gpu.to_host(self._logits_host, int(self._logits))

            step()
            self._gpu.wait()
            execution.check_recordable()
            recorded[bucket] = self._gpu.record(step)
        memory.extend(length, 1)

    def logits(self) -> Float32Array:
        """Waits for the GPU and returns the logits of the last step, float32 [vocab]."""
        self._gpu.wait()
        return self._logits_host.copy()

    def _execute(
        self, execution: PlanExecution, count: int, length: int, inputs: Addresses, memory: CacheMemory
    ) -> None:
        shapes = {"embeddings": (count, self._hidden), "positions": (count,)} | memory.shapes(length)
        execution.run(shapes, inputs | {"logits": int(self._logits)} | memory.addresses())


class _InputStage:
    """Page-locked memory and GPU memory for the inputs of one execution."""

    def __init__(self, sizes: dict[str, int], gpu: CudaDevice):
        self._gpu = gpu
        self._host = {name: gpu.page_locked((size,), np.uint8) for name, size in sizes.items()}
        self._device = {name: gpu.allocate(size) for name, size in sizes.items()}
        self._used = dict.fromkeys(sizes, 0)
        self._finished = gpu.event()
        self._referenced: Any = None

    def wait(self) -> None:
        """Waits until the GPU no longer needs what was sent before."""
        self._finished.wait()
        self._referenced = None

    def write(self, name: str, values: Array) -> None:
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._host[name][: flat.size] = flat
        self._used[name] = flat.size

    def send(self, name: str, values: Array) -> None:
        """Writes an input to page-locked memory and starts its transfer."""
        self.write(name, values)
        self._gpu.to_device(int(self._device[name]), self._host[name][: self._used[name]])

    def send_written(self) -> None:
        for name, size in self._used.items():
            self._gpu.to_device(int(self._device[name]), self._host[name][:size])

    def addresses(self) -> Addresses:
        return {name: int(memory) for name, memory in self._device.items()}

    def mark(self, referenced: Any) -> None:
        """Marks that all work on these inputs is on the stream; keeps an object referenced until it is done."""
        self._referenced = referenced
        self._finished.record()
