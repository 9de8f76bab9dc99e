"""One variant of a model measured in a process of its own: `python -m penguin_engine.bench.worker_process SETTINGS`.

A process of its own, because loading time and memory mean nothing where another variant was loaded before. Prints one
JSON object. Knows the runtimes and transformers; llama.cpp is in bench_llama.py.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penguin_engine.bench.energy import EnergyMeter
from penguin_engine.bench.gpu_memory import gpu_bytes
from penguin_engine.runtimes.base import Runtime
from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.session import SceneSession
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Processor
from penguin_models.types import Frame, PatchedImage, Size

_FRAME = Size(32, 40)
"""Patches of the frames that are encoded: 448x560 pixels, 320 tokens."""
_VGA_TOKENS = 391
_QUESTIONS = ("What has changed on the table?", "What is on the table now?")


@dataclass(frozen=True)
class WorkerSettings:
    """What is measured, and how much of it.

    Attributes:
        kind: "torch", "onnx", "tensorrt" or "transformers".
        path: checkpoint or exported folder.
        device: where it runs.
        precision: type of the weights; as stored if None.
        threads: of one operator; all cores if None.
        frames: encoded together.
        prompt_tokens: of the prefill.
        new_tokens: of the decoding.
        scene_frames: held by the session whose first token is timed, 391 tokens each; 0 leaves that out.
        answer_tokens: of the answer whose energy is measured.
    """

    kind: str
    path: str
    device: str = "cpu"
    precision: str | None = None
    threads: int | None = None
    frames: int = 3
    prompt_tokens: int = 512
    new_tokens: int = 32
    scene_frames: int = 2
    answer_tokens: int = 32

    def to_json(self) -> str:
        """For the command line of a worker."""
        return json.dumps(asdict(self))


def measure(settings: WorkerSettings) -> dict[str, Any]:
    """Opens a variant and measures it."""
    of_gpu, before = gpu_bytes(settings.device), resident_bytes()
    if settings.kind == "transformers":
        return _measure_transformers(settings, before) | _gpu_growth(settings.device, of_gpu)
    start = time.perf_counter()
    runtime, processor = open_runtime(
        settings.kind, settings.path, settings.device, settings.precision, settings.threads
    )
    result: dict[str, Any] = {"load_s": time.perf_counter() - start, "resident_loaded_bytes": resident_bytes() - before}
    result |= _rates(runtime, settings)
    if settings.scene_frames:
        result |= _scene(runtime, processor, settings)
    result |= {"resident_bytes": resident_bytes() - before, "peak_bytes": peak_bytes() - before}
    return result | _gpu_growth(settings.device, of_gpu)


def _rates(runtime: Runtime, settings: WorkerSettings) -> dict[str, Any]:
    random = np.random.default_rng(0)
    images = [
        PatchedImage(random.standard_normal((_FRAME.area, 588), dtype=np.float32), _FRAME, 2)
        for _ in range(settings.frames)
    ]

    def encode() -> None:
        runtime.encode(images)
        runtime.synchronize()

    encode()
    encode_s = timed(encode)
    ids = random.integers(0, 200, settings.prompt_tokens).tolist()
    cache = runtime.open_cache(settings.prompt_tokens + settings.new_tokens)

    def prefill() -> None:
        cache.truncate(0)
        cache.append([ids])

    def decode() -> None:
        cache.truncate(settings.prompt_tokens)
        for token in range(settings.new_tokens):
            cache.append([[token]])

    cache.append([ids[:8]])
    prefill_s = timed(prefill)
    cache.append([[1]])
    decode_s = timed(decode)
    cache.close()
    return {
        "encode_patches_per_s": settings.frames * _FRAME.area / encode_s,
        "prefill_tokens_per_s": settings.prompt_tokens / prefill_s,
        "decode_tokens_per_s": settings.new_tokens / decode_s,
    }


def _scene(runtime: Runtime, processor: Processor, settings: WorkerSettings) -> dict[str, Any]:
    """First token of a question over a camera's memory: everything still to do, and with the prefix in the cache."""
    budget = settings.scene_frames * _VGA_TOKENS + 50
    session = SceneSession(runtime, processor, NoveltyPolicy(), MemoryConfig(token_budget=budget))
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for number in range(settings.scene_frames):
        session.observe(Frame(np.roll(picture, 40 * number, axis=1), number * 10**9))
    first = Sampling(max_new_tokens=1)
    start = time.perf_counter()
    answer = session.ask(_QUESTIONS[0], first)
    cold_s = time.perf_counter() - start
    reused_s = timed(lambda: session.ask(_QUESTIONS[1], first))
    meter = EnergyMeter()
    with meter.measure() as reading:
        session.ask(_QUESTIONS[1], Sampling(max_new_tokens=settings.answer_tokens))
    session.close()
    return {
        "scene_visual_tokens": answer.visual_tokens,
        "first_token_cold_s": cold_s,
        "first_token_reused_s": reused_s,
        "joules_per_answer": reading.total,
        "joules_by_sensor": reading.joules,
    }


def _measure_transformers(settings: WorkerSettings, before: int) -> dict[str, Any]:
    """transformers' own `generate` on the same decoder."""
    start = time.perf_counter()  # before its libraries are loaded, as with the runtimes
    import torch

    from penguin_models.checkpoint import load_pretrained

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model, _ = load_pretrained(settings.path, settings.precision, settings.device)
    decoder: Any = model.language_model
    result = {"load_s": time.perf_counter() - start, "resident_loaded_bytes": resident_bytes() - before}
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (1, settings.prompt_tokens))).to(settings.device)

    def generate(tokens: int) -> None:
        mask = torch.ones_like(ids)
        decoder.generate(ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    with torch.inference_mode():
        generate(1)
        prefill_s = timed(lambda: generate(1))
        whole_s = timed(lambda: generate(1 + settings.new_tokens))
    return result | {
        "prefill_tokens_per_s": settings.prompt_tokens / prefill_s,
        "decode_tokens_per_s": settings.new_tokens / max(whole_s - prefill_s, 1e-9),
        "resident_bytes": resident_bytes() - before,
        "peak_bytes": peak_bytes() - before,
    }


def timed(run: Callable[[], Any], at_least_s: float = 2.0) -> float:
    """Seconds of one run: the median of as many as fill the time."""
    times: list[float] = []
    while sum(times) < at_least_s:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def resident_bytes() -> int:
    """Memory of this process now (Linux)."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Most memory that this process has had (Linux)."""
    return _status("VmHWM")


def _gpu_growth(device: str, before: int | None) -> dict[str, int]:
    now = gpu_bytes(device)
    return {} if now is None or before is None else {"gpu_bytes": now - before}


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(WorkerSettings(**json.loads(sys.argv[1])))) + "\n")
