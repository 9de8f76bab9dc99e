"""Prompts of vLLM -> token ids and patches, by the `Processor` of the rest of this package.

vLLM processes and caches each image and video on its own, but the budget of visual tokens is shared by all of a prompt.
So sizes are planned for the whole prompt first, and an item's size is part of its identity in vLLM's caches.

A prompt has `<image>` where an image and `<video>` where a video is shown; the latter becomes one `<image>` per visual
token with the times of the frames between them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.media import MediaWithBytes
from vllm.multimodal.parse import MultiModalDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdateDetails,
)
from vllm.multimodal.processing.processor import PlaceholderFeaturesInfo

from penguin_engine.vllm_plugin.plans import VIDEO, Options, check_places, frames_of, plan_all
from penguin_models.chat import IMAGE
from penguin_models.decoding import opened
from penguin_models.errors import MediaError
from penguin_models.hub import resolve_checkpoint
from penguin_models.image_files import FORMATS, orientation
from penguin_models.media import MAX_FRAMES, to_rgb, turned
from penguin_models.processor import VIDEO_MERGE_SIZE, Processor

_PLANS = "plans"  # key among the options of the processor


class DataParser(MultiModalDataParser):
    """Shows images that are not 8-bit RGB as the rest of this package does; vLLM clips grey levels of 16 bits."""

    def _parse_image_data(self, data: Any) -> Any:
        return super()._parse_image_data(list(map(_in_rgb, data)) if isinstance(data, list) else _in_rgb(data))


def _in_rgb(item: Any) -> Any:
    """Returns an image in RGB; from its bytes if vLLM has converted it."""
    if isinstance(item, Image.Image) and item.mode != "RGB":
        return Image.fromarray(turned(to_rgb(item), orientation(item, "the image")))
    if not isinstance(item, MediaWithBytes) or item.io_config is None:
        return item
    try:
        with opened(item.original_bytes, "the image", FORMATS, item.media.width * item.media.height) as image:
            return MediaWithBytes(_in_rgb(image), item.original_bytes, item.io_config)
    except UnidentifiedImageError as err:
        raise MediaError(
            f"the image is not of a format that is read ({', '.join(FORMATS)}); convert it to PNG"
        ) from err


class ProcessingInfo(BaseProcessingInfo):
    """What vLLM must know before it processes a prompt."""

    @cached_property
    def processor(self) -> Processor:
        """The checkpoint's processor."""
        return _load_processor(self.ctx.model_config.model, self.ctx.model_config.revision)

    def options(self, request: Mapping[str, Any]) -> Options:
        """Returns the server's options, with those of a request in their place."""
        return Options.from_dict(self.ctx.get_merged_mm_kwargs(request))

    def max_tokens(self) -> int:
        """Returns the largest number of visual tokens of an image or video."""
        most = self.options({}).max_tokens or self.processor.images.max_tokens
        return min(most, int(self.ctx.model_config.max_model_len))

    def get_data_parser(self) -> DataParser:
        """Returns what reads images and videos."""
        return DataParser(video_needs_metadata=True)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Returns that a prompt may have any number of images and videos."""
        return {"image": None, "video": None}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Returns the largest number of visual tokens of an image or video."""
        return dict.fromkeys(mm_counts, self.max_tokens())


@lru_cache(maxsize=4)
def _load_processor(model: str, revision: str | None) -> Processor:
    return Processor.from_pretrained(resolve_checkpoint(model, revision, weights=False))


class DummyInputsBuilder(BaseDummyInputsBuilder[ProcessingInfo]):
    """The largest inputs, by which vLLM measures how much memory the encoder takes."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Returns a prompt that shows this many images and videos."""
        return IMAGE * mm_counts.get("image", 0) + VIDEO * mm_counts.get("video", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Returns images and videos that fill the budget."""
        most, images = self.info.max_tokens(), self.info.processor.images
        side = math.isqrt(most) * images.patch_size
        frames = max(1, min(MAX_FRAMES, most // (4 * images.min_tokens)))
        frame_side = math.isqrt(most // frames) * images.patch_size * VIDEO_MERGE_SIZE
        videos = self._get_dummy_videos(
            width=frame_side,
            height=frame_side,
            num_frames=frames,
            num_videos=mm_counts.get("video", 0),
            overrides=mm_options.get("video"),
        )
        return {
            "image": self._get_dummy_images(
                width=side, height=side, num_images=mm_counts.get("image", 0), overrides=mm_options.get("image")
            ),
            "video": [(video, {"timestamps": list(range(len(video)))}) for video in videos],
        }


class MultiModalProcessor(BaseMultiModalProcessor[ProcessingInfo]):
    """Processes prompts with images and videos."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Plans the sizes of all images and videos of a prompt, then processes it as vLLM does for any model."""
        plans = plan_all(self.info.processor, inputs.mm_data_items, self.info.options(inputs.hf_processor_mm_kwargs))
        options = {**inputs.hf_processor_mm_kwargs, _PLANS: plans}
        return super().apply(replace(inputs, hf_processor_mm_kwargs=options), timing_ctx)

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        """Returns the identities of images and videos in the caches."""
        options = dict(inputs.hf_processor_mm_kwargs)
        plans = options.pop(_PLANS)
        hashes = super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=options))
        return {
            modality: [f"{name}-{plan.name}" for name, plan in zip(names, plans[modality], strict=True)]
            for modality, names in hashes.items()
        }

    def _get_cache_missing_processor_kwargs(
        self, inputs: Any, mm_is_cached: Mapping[str, Sequence[bool]]
    ) -> Mapping[str, Any]:
        plans = {
            modality: [
                plan for plan, is_cached in zip(of_modality, mm_is_cached[modality], strict=True) if not is_cached
            ]
            for modality, of_modality in inputs.hf_processor_mm_kwargs[_PLANS].items()
        }
        return {**inputs.hf_processor_mm_kwargs, _PLANS: plans}

    def _apply_hf_processor_main(self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, Any]) -> BatchFeature:
        """Cuts images and videos into patches; the fields are described in `_get_mm_fields_config`."""
        processor, plans, dtype = self.info.processor, hf_kwargs[_PLANS], self.info.ctx.model_config.dtype
        fields: dict[str, Any] = {}
        for modality, items in mm_items.items():
            patches, grids = [], []
            for item, shown in zip(items, plans[modality], strict=True):
                for image in processor.patch(frames_of(item, modality), shown.kinds, shown.allocation):
                    patches.append(torch.from_numpy(image.patches).to(dtype))
                    grids.append(image.grid)
            fields[f"{modality}_patches"] = torch.cat(patches)
            fields[f"{modality}_grids"] = torch.tensor(grids)
            fields[f"{modality}_frames"] = torch.tensor([len(plan.kinds) for plan in plans[modality]])
        return BatchFeature(fields)

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, Any]
    ) -> Mapping[str, MultiModalFieldConfig]:
        """Returns where the fields of each image and video are.

        M_patches [N, C*P*P] holds the patches of modality M, M_grids [frames, 2] the rows and columns of each frame,
        and M_frames [items] the number of frames of each image or video.
        """
        config = {}
        for modality in hf_processor_mm_kwargs[_PLANS]:
            if (frames := hf_inputs.get(f"{modality}_frames")) is None:
                continue
            by_item = hf_inputs[f"{modality}_grids"].split(frames.tolist())
            patches = torch.stack([grids.prod(1).sum() for grids in by_item])
            config[f"{modality}_patches"] = MultiModalFieldConfig.flat_from_sizes(modality, patches)
            config[f"{modality}_grids"] = MultiModalFieldConfig.flat_from_sizes(modality, frames, keep_on_cpu=True)
            config[f"{modality}_frames"] = MultiModalFieldConfig.batched(modality, keep_on_cpu=True)
        return config

    def _get_prompt_updates(
        self, mm_items: MultiModalDataItems, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        processor = self.info.processor

        def replacement(modality: str, target: str) -> PromptReplacement:
            def content(index: int) -> PromptUpdateDetails:
                ids = processor.encode_text(hf_processor_mm_kwargs[_PLANS][modality][index].text)
                return PromptUpdateDetails.select_token_id(ids, processor.image_token_id)

            return PromptReplacement(modality, processor.encode_text(target), content)

        targets = {"image": IMAGE, "video": VIDEO}
        return [replacement(modality, targets[modality]) for modality in mm_items]

    def _apply_prompt_updates(
        self, token_ids: Sequence[int], mm_prompt_updates: Mapping[str, Sequence[Sequence[Any]]]
    ) -> tuple[list[int], dict[str, list[PlaceholderFeaturesInfo]]]:
        """Replaces the places of a prompt in its text, because the words next to a time may share a token with it."""
        processor = self.info.processor
        text = processor.tokenizer.decode(list(token_ids), skip_special_tokens=False)
        shown: list[Any] = []
        waiting = {modality: [updates[0] for updates in items] for modality, items in mm_prompt_updates.items()}
        check_places(text, {modality: len(updates) for modality, updates in waiting.items()})

        def insert(place: re.Match[str]) -> str:
            update = waiting["image" if place[0] == IMAGE else "video"].pop(0)
            shown.append(update)
            return str(processor.tokenizer.decode(update.content.full, skip_special_tokens=False))

        pattern = f"{IMAGE}|{VIDEO}" if "video" in waiting else IMAGE
        ids = processor.encode_text(re.sub(pattern, insert, text))
        placeholders: dict[str, list[PlaceholderFeaturesInfo]] = {modality: [] for modality in waiting}
        for update, (start, stop) in zip(shown, _ranges(ids, shown, processor.image_token_id), strict=True):
            tokens = ids[start:stop]
            is_image = torch.tensor(tokens) == processor.image_token_id
            placeholders[update.modality].append(
                PlaceholderFeaturesInfo(update.modality, update.item_idx, start, tokens, is_image)
            )
        return ids, placeholders


def _ranges(ids: Sequence[int], shown: Sequence[Any], image_token_id: int) -> Iterator[tuple[int, int]]:
    """Yields the first and the one after the last `<image>` of each image and video, in the order of the prompt."""
    places = np.flatnonzero(np.array(ids) == image_token_id).tolist()
    for update in shown:
        count = update.content.full.count(image_token_id)
        yield places[0], places[count - 1] + 1
        del places[:count]
