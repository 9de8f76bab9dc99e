"""A model class for lmms-eval: `lmms-eval --model penguin_vl --model_args pretrained=...`.

lmms-eval finds it through this package's entry point; nothing else imports this module. It runs in one process. Images
and the video precede the text of the prompt, because the model is trained that way.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm

from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.offline import ask
from penguin_models.errors import EvaluationError
from penguin_models.media import FPS, MAX_FRAMES, VideoFile, to_rgb
from penguin_models.reference_policy import ReferencePolicy

_PLACEHOLDER = re.compile(r"<image(?: \d+)?>|<video>")


def manifest() -> ModelManifest:
    """Returns the registration of the model class in lmms-eval."""
    return ModelManifest(model_id="penguin_vl", simple_class_path=f"{__name__}.PenguinVL")


class PenguinVL(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """Answers lmms-eval's requests with any runtime of this package."""

    def __init__(
        self,
        pretrained: str,
        runtime: str = "torch",
        device: str = "auto",
        dtype: str | None = None,
        max_tokens: int | None = None,
        allocation: str = "strict",
        fps: float = FPS,
        max_frames: int = MAX_FRAMES,
        batch_size: int | str = 1,
        **others: Any,
    ):
        """Loads the model.

        Args:
            pretrained: Checkpoint folder, or owner/name on the model hub.
            runtime: Name of the runtime.
            device: "cpu", "cuda" or "cuda:1"; "auto" uses CUDA if available; see `open_runtime`.
            dtype: Type of the weights; None for what `open_runtime` chooses.
            max_tokens: Budget of visual tokens; None for the checkpoint's.
            allocation: Rule for frame sizes, "strict" or "reference".
            fps: Sampled frames per second of video.
            max_frames: Maximum number of frames of a video.
            batch_size: Must be 1.
            others: lmms-eval passes max_batch_size to every model; it is ignored.

        Raises:
            EvaluationError: An option is unknown, or the batch size is not 1.
            CheckpointError: The model cannot be loaded.
        """
        super().__init__()
        unknown = set(others) - {"max_batch_size"}
        if unknown:
            raise EvaluationError(f"penguin_vl has no option {', '.join(sorted(unknown))}")
        if str(batch_size) != "1":
            raise EvaluationError(f"batch_size is {batch_size}, it must be 1")
        self._runtime, self._processor = open_runtime(runtime, pretrained, device, dtype)
        self._max_tokens, self._allocation = max_tokens, allocation
        self._fps, self._max_frames = fps, max_frames

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Returns the answer to each request."""
        answers = []
        for request in tqdm(requests, desc="penguin_vl"):
            context, options, doc_to_visual, doc_id, task, split = request.args
            visuals = doc_to_visual(self.task_dict[task][split][doc_id])
            text = self._answer(context, visuals or [], options)
            self.cache_hook.add_partial("generate_until", (context, options), text)
            answers.append(text)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Raises NotImplementedError: only tasks that generate text are supported."""
        raise NotImplementedError("penguin_vl only generates text; choose the variant of the task without mcppl")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Raises NotImplementedError: only single questions are supported."""
        raise NotImplementedError("penguin_vl answers single questions; choose a task without several rounds")

    def _answer(self, context: str, visuals: list[Any], options: dict[str, Any]) -> str:
        videos = [visual for visual in visuals if isinstance(visual, str)]
        if len(videos) > 1:
            raise EvaluationError(f"the prompt has {len(videos)} videos, the maximum is 1")
        return ask(
            self._runtime,
            self._processor,
            _PLACEHOLDER.sub("", context).strip(),
            images=[v if isinstance(v, np.ndarray) else to_rgb(v) for v in visuals if not isinstance(v, str)],
            clip=VideoFile(videos[0], self._fps, self._max_frames) if videos else None,
            policy=ReferencePolicy(),
            max_tokens=self._max_tokens,
            size_rule=self._allocation,
            sampling=_sampling(options),
        ).raw


def _sampling(options: dict[str, Any]) -> Sampling:
    """Returns lmms-eval's generation options as `Sampling`; temperature 0 or `do_sample: false` is greedy decoding."""
    until = options.get("until") or []
    stops = [until] if isinstance(until, str) else until
    temperature = options.get("temperature", 1.0 if options.get("do_sample") else 0.0)
    return Sampling(
        max_new_tokens=options.get("max_new_tokens", 1024),
        temperature=float(temperature or 0) if options.get("do_sample", True) else 0.0,
        top_p=options.get("top_p") or 1.0,
        stop=tuple(stop for stop in stops if stop.strip()),
    )
