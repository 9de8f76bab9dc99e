"""A model class for lmms-eval, so that `lmms-eval --model penguin_vl --model_args pretrained=...` works.

lmms-eval finds it by the entry point of this package; nothing else imports this file. One process; pictures and a
video come before the words of the prompt, as this package asks.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image
from tqdm import tqdm

from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.offline import ask
from penguin_models.errors import EvaluationError
from penguin_models.media import FPS, MAX_FRAMES, VideoFile, to_rgb
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.types import UInt8Array

_PLACEHOLDER = re.compile(r"<image(?: \d+)?>|<video>")


def manifest() -> ModelManifest:
    """What lmms-eval is told of this model."""
    return ModelManifest(model_id="penguin_vl", simple_class_path=f"{__name__}.PenguinVL")


class PenguinVL(lmms):
    """Answers lmms-eval's requests with any runtime of this package."""

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        runtime: str = "torch",
        device: str = "auto",
        dtype: str | None = None,
        max_tokens: int | str | None = None,
        allocation: str = "strict",
        fps: float | str = FPS,
        max_frames: int | str = MAX_FRAMES,
        batch_size: int | str = 1,
        **ignored: Any,
    ):
        """Loads the model.

        Args:
            pretrained: checkpoint folder, or owner/name on the model hub.
            runtime: what runs it.
            device: cpu, cuda, cuda:1; auto takes cuda where there is one.
            dtype: type of the weights; as stored if None.
            max_tokens: budget of visual tokens; the checkpoint's if None.
            allocation: "strict" or "reference" sizes of frames.
            fps: sampled frames per second of video.
            max_frames: most frames of a video.
            batch_size: must be 1.
            ignored: what lmms-eval gives to every model (max_batch_size).

        Raises:
            EvaluationError: an option is not known, or the batch size is not 1.
            CheckpointError: the model cannot be loaded.
        """
        super().__init__()
        unknown = set(ignored) - {"max_batch_size"}
        if unknown:
            raise EvaluationError(f"penguin_vl has no option {', '.join(sorted(unknown))}")
        if int(batch_size) != 1:
            raise EvaluationError(f"batch_size is {batch_size}, it must be 1: prompts keep their own sizes")
        device = device if device in ("auto", "cpu") or ":" in device else "auto"
        self._runtime, self._processor = open_runtime(runtime, pretrained, device, dtype)
        self._max_tokens = None if max_tokens is None else int(max_tokens)
        self._allocation, self._fps, self._max_frames = allocation, float(fps), int(max_frames)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers each request."""
        answers = []
        for request in tqdm(requests, desc="penguin_vl"):
            context, options, doc_to_visual, doc_id, task, split = request.args
            visuals = doc_to_visual(self.task_dict[task][split][doc_id])
            text = self._answer(context, visuals or [], options)
            self.cache_hook.add_partial("generate_until", (context, options), text)
            answers.append(text)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not there: take the tasks that generate."""
        raise NotImplementedError("penguin_vl generates answers; choose the task without mcppl or loglikelihood")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not there."""
        raise NotImplementedError("penguin_vl answers single questions")

    def _answer(self, context: str, visuals: list[Any], options: dict[str, Any]) -> str:
        images, clip = self._split(visuals)
        return ask(
            self._runtime,
            self._processor,
            _PLACEHOLDER.sub("", context).strip(),
            images=images,
            clip=clip,
            policy=ReferencePolicy(),
            max_tokens=self._max_tokens,
            size_rule=self._allocation,
            sampling=_sampling(options),
        ).raw

    def _split(self, visuals: list[Any]) -> tuple[list[UInt8Array], VideoFile | None]:
        """Pictures, and the video if there is one."""
        images, videos = [], []
        for visual in visuals:
            if isinstance(visual, str):
                videos.append(visual)
            elif isinstance(visual, Image.Image):
                images.append(to_rgb(visual))
            else:
                images.append(np.ascontiguousarray(visual, dtype=np.uint8))
        if len(videos) > 1:
            raise EvaluationError(f"a prompt has {len(videos)} videos; penguin_vl takes one")
        return images, VideoFile(videos[0], self._fps, self._max_frames) if videos else None


def _sampling(options: dict[str, Any]) -> Sampling:
    """lmms-eval's generation options; a temperature counts only where sampling is asked for."""
    until = options.get("until") or []
    stop = [until] if isinstance(until, str) else [words for words in until if words.strip()]
    warm = options.get("do_sample") or float(options.get("temperature") or 0) > 0
    return Sampling(
        max_new_tokens=int(options.get("max_new_tokens", 1024)),
        temperature=float(options.get("temperature") or 0) if warm else 0.0,
        top_p=float(options.get("top_p") or 1.0) if warm else 1.0,
        stop=tuple(stop),
    )
