"""Measures one variant of a model in a process of its own: `python -m penguin_engine.bench.worker_process SETTINGS`.

Loading time and memory mean nothing in a process that loaded another variant before. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penguin_engine.bench.energy import EnergyMeter
from penguin_engine.bench.machine import gpu_bytes, peak_bytes, resident_bytes, timed
from penguin_engine.bench.rates import runtime_rates, token_rates
from penguin_engine.export.manifest import DECODER, Manifest
from penguin_engine.runtimes.base import Runtime
from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.runtimes.onnx_session import Device, open_session
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Processor
from penguin_models.types import Frame

VGA_TOKENS = 391
"""Visual tokens of a frame of 640x480."""
DECODER_ALONE = "decoder"
"""Kind of a worker that only loads an exported decoder, to compare with runtimes that have no encoder."""
_SCENE_FRAMES = 2
_QUESTIONS = ("What has changed on the table?", "What is on the table now?")


@dataclass(frozen=True)
class WorkerSettings:
    """What is measured, and how much of it."""

    kind: str  # "torch", "onnx", "tensorrt", "transformers", "llama.cpp" or `DECODER_ALONE`
    path: str  # checkpoint folder, exported folder or GGUF file
    device: str = "cpu"
    precision: str | None = None  # of the weights; as stored if None
    threads: int | None = None  # CPU threads of one operator; all cores if None
    prompt_tokens: int = 512  # tokens of the prefill
    new_tokens: int = 32  # tokens decoded after it, and of the answer whose energy is measured


Measure = Callable[[], dict[str, Any]]
"""Measures the speed of a loaded model, and keeps the model in memory as long as it exists."""


def measure(settings: WorkerSettings) -> dict[str, Any]:
    """Returns loading time, memory, rates, time to the first token and energy of a variant."""
    loaders = {"transformers": _load_transformers, "llama.cpp": _load_llama, DECODER_ALONE: _load_decoder}
    resident, gpu = resident_bytes(), gpu_bytes(settings.device)
    start = time.perf_counter()
    measure_speed = loaders.get(settings.kind, _load_runtime)(settings)
    loaded = {"load_s": time.perf_counter() - start, "resident_loaded_bytes": resident_bytes() - resident}
    speed = measure_speed()
    gpu_after = gpu_bytes(settings.device)
    return {
        **loaded,
        **speed,
        "resident_bytes": resident_bytes() - resident,
        "peak_bytes": peak_bytes() - resident,
        "gpu_bytes": None if gpu is None or gpu_after is None else gpu_after - gpu,
    }


def _load_decoder(settings: WorkerSettings) -> Measure:
    """Loads the decoder of an exported folder without its encoder, of which only the memory is measured."""
    folder = Path(settings.path)
    float8 = Manifest.read(folder).precision == "fp8"
    decoder = open_session(folder / DECODER, Device.parse(settings.device), settings.threads, float8)
    return lambda: {"decoder_inputs": len(decoder.get_inputs())}


def _load_runtime(settings: WorkerSettings) -> Measure:
    runtime, processor = open_runtime(
        settings.kind, settings.path, settings.device, settings.precision, settings.threads
    )
    prompt_tokens, new_tokens = settings.prompt_tokens, settings.new_tokens
    return lambda: runtime_rates(runtime, prompt_tokens, new_tokens) | _measure_scene(runtime, processor, new_tokens)


def _measure_scene(runtime: Runtime, processor: Processor, new_tokens: int) -> dict[str, Any]:
    """Returns the time to the first token of a first question and of a second one, which reuses the prefix."""
    budget = _SCENE_FRAMES * VGA_TOKENS + 50
    session = SceneSession(runtime, processor, NoveltyPolicy(), MemoryConfig(token_budget=budget))
    for frame in vga_frames(_SCENE_FRAMES):
        session.observe(frame)
    first, second = (Request.prepare(processor, question, Sampling(max_new_tokens=1)) for question in _QUESTIONS)
    start = time.perf_counter()
    answer = session.ask(first)
    cold_s = time.perf_counter() - start
    reused_s = timed(lambda: session.ask(second))
    whole = Request.prepare(processor, _QUESTIONS[1], Sampling(max_new_tokens=new_tokens))
    with EnergyMeter().measure() as reading:
        session.ask(whole)
    session.close()
    return {
        "scene_visual_tokens": answer.visual_tokens,
        "first_token_cold_s": cold_s,
        "first_token_reused_s": reused_s,
        "joules_per_answer": reading.total,
        "joules_by_sensor": reading.joules,
    }


def vga_frames(count: int) -> list[Frame]:
    """Returns different random frames of 640x480, one second apart."""
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return [Frame(np.roll(picture, 40 * i, axis=1), i * 10**9) for i in range(count)]


def _load_transformers(settings: WorkerSettings) -> Measure:
    """Loads the same decoder for transformers' own `generate`."""
    import torch

    from penguin_models.checkpoint import load_pretrained

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model, _ = load_pretrained(settings.path, settings.precision, settings.device)
    decoder: Any = model.language_model
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (1, settings.prompt_tokens))).to(settings.device)

    @torch.inference_mode()
    def generate(tokens: int) -> None:
        mask = torch.ones_like(ids)
        decoder.generate(ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    def measure_speed() -> dict[str, Any]:
        generate(1)
        prefill_s = timed(lambda: generate(1))
        whole_s = timed(lambda: generate(1 + settings.new_tokens))
        return {
            "prefill_tokens_per_s": settings.prompt_tokens / prefill_s,
            "decode_tokens_per_s": settings.new_tokens / max(whole_s - prefill_s, 1e-9),
        }

    return measure_speed


def _load_llama(settings: WorkerSettings) -> Measure:
    from penguin_engine.bench.llama_cpp import LlamaSequence

    tokens = LlamaSequence(settings.path, settings.prompt_tokens + settings.new_tokens, settings.threads)
    return lambda: token_rates(tokens, settings.prompt_tokens, settings.new_tokens)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(WorkerSettings(**json.loads(sys.argv[1])))) + "\n")
