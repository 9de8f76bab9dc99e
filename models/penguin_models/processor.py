"""Frames and conversations -> token ids and patches. Needs neither torch nor transformers, so a robot can do without.

Every image and video may have its own size. The number of `<image>` places equals the number of visual tokens, or an
error says how they differ before anything runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from penguin_models.atomic_write import atomic_files
from penguin_models.chat import IMAGE, USER_TURN, Message, render, training_segments, video_time
from penguin_models.config import ImageConfig, read_json
from penguin_models.end_tokens import read_end_token_ids
from penguin_models.errors import CheckpointError, PromptError
from penguin_models.images import patch_image
from penguin_models.quoting import shortened
from penguin_models.token_allocation import SIZE_RULES, Allocation, grid_size, smallest_size, split_budget
from penguin_models.types import FrameKind, Int64Array, PatchedImage, Size, UInt8Array

IMAGE_MERGE_SIZE = 1
VIDEO_MERGE_SIZE = 2
IGNORE_INDEX = -100
CALIBRATION = "watch_calibration.json"
"""File of a checkpoint that maps its judgements to probabilities, see watch.py."""
_SIDE_FILES = (
    CALIBRATION,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class Visual:
    """Properties of an image or a video that token allocation needs, known before its pixels are read."""

    source_size: Size  # of its frames, in pixels
    kinds: tuple[FrameKind, ...] = (FrameKind.KEY,)  # of its frames; one keyframe for an image
    merge_size: int = IMAGE_MERGE_SIZE  # each block of merge_size x merge_size patches becomes one visual token

    @classmethod
    def video(cls, source_size: Size, kinds: Sequence[FrameKind]) -> Visual:
        """Returns a video with frames of these kinds."""
        return cls(source_size, tuple(kinds), VIDEO_MERGE_SIZE)


@dataclass(eq=False)
class Processor:
    """Prepares prompts for one checkpoint."""

    tokenizer: Tokenizer
    images: ImageConfig
    image_token_id: int  # id of `<image>`
    end_token_ids: tuple[int, ...]  # ids that end an answer, see end_tokens.py
    side_files: dict[str, bytes] = field(default_factory=dict, repr=False)  # by name, so that saving loses nothing

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, image_token_id: int | None = None, end_token_ids: Sequence[int] = ()
    ) -> Processor:
        """Reads tokenizer and image settings of a checkpoint folder; the id of `<image>` is config.json's if None.

        `end_token_ids` are ids that end an answer, in addition to those that the folder's files name.

        Raises:
            CheckpointError: A file is missing or broken, or the tokenizer gives `<image>` another id.
        """
        folder = Path(folder)
        if image_token_id is None:
            image_token_id = read_json(folder / "config.json").get("image_token_index")
            if not isinstance(image_token_id, int):
                raise CheckpointError(f"{folder / 'config.json'} has no image_token_index")
        images = ImageConfig.from_dict(read_json(folder / "preprocessor_config.json"))
        processor = cls.from_llm(folder, images)
        processor.end_token_ids = tuple(dict.fromkeys((*processor.end_token_ids, *end_token_ids)))
        if processor.image_token_id != image_token_id:
            raise CheckpointError(
                f"{folder}: the tokenizer gives {IMAGE} the id {processor.image_token_id}, but config.json says "
                f"{image_token_id}; the files belong to different checkpoints"
            )
        return processor

    @classmethod
    def from_llm(cls, folder: str | Path, images: ImageConfig) -> Processor:
        """Returns a processor with the tokenizer of a text-only LLM's folder, to which `<image>` is added if missing.

        Raises:
            CheckpointError: The tokenizer is missing or broken, or has no `<|im_end|>`; or the files name end tokens
                that it does not have.
        """
        folder = Path(folder)
        tokenizer = _load_tokenizer(folder)
        if tokenizer.token_to_id(IMAGE) is None:
            tokenizer.add_special_tokens([AddedToken(IMAGE, special=True)])
        image_token_id = tokenizer.token_to_id(IMAGE)
        assert image_token_id is not None
        ends = read_end_token_ids(folder, tokenizer)
        side_files = {name: (folder / name).read_bytes() for name in _SIDE_FILES if (folder / name).is_file()}
        return cls(tokenizer, images, image_token_id, ends, side_files)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the files that `from_pretrained` reads; raises WriteError and changes nothing if that fails."""
        with atomic_files(Path(folder)) as staging:
            self.tokenizer.save(str(staging / "tokenizer.json"))
            (staging / "preprocessor_config.json").write_text(json.dumps(self.images.to_dict(), indent=2) + "\n")
            for name, content in self.side_files.items():
                (staging / name).write_bytes(content)

    def allocate(
        self, visuals: Sequence[Visual], max_tokens: int | None = None, rule: str = "strict"
    ) -> list[Allocation]:
        """Returns the sizes of the images and videos of one prompt.

        Args:
            visuals: Images and videos in the order of the prompt.
            max_tokens: Budget of the whole prompt in visual tokens; the checkpoint's setting if None.
            rule: "strict" (never above source size or budget) or "reference" (as released).

        Raises:
            BudgetError: The budget is too small for the frames ("strict" only).
        """
        max_tokens = self.images.max_tokens if max_tokens is None else max_tokens
        shares = [max_tokens] * len(visuals)
        if len(visuals) > 1:
            tokens = [self._source_and_floor_tokens(visual) for visual in visuals]
            floors = [floor if rule == "strict" else 0 for _, floor in tokens]
            shares = split_budget([source for source, _ in tokens], max_tokens, floors)
        minimum, patch_size = self.images.min_tokens, self.images.patch_size
        return [
            SIZE_RULES[rule](v.source_size, v.kinds, v.merge_size, minimum, share, patch_size)
            for v, share in zip(visuals, shares, strict=True)
        ]

    def _source_and_floor_tokens(self, visual: Visual) -> tuple[int, int]:
        factor = self.images.patch_size * visual.merge_size
        sizes = grid_size(visual.source_size, factor), smallest_size(visual.source_size, factor, self.images.min_tokens)
        source, floor = (len(visual.kinds) * size.area // factor**2 for size in sizes)
        return source, floor

    def patch(
        self, frames: Iterable[UInt8Array], kinds: Sequence[FrameKind], allocation: Allocation
    ) -> Iterator[PatchedImage]:
        """Resizes frames, uint8 [H, W, 3], to the size of their kind and cuts them into patches, one at a time."""
        for rgb, kind in zip(frames, kinds, strict=True):
            yield patch_image(rgb, allocation.size(kind), allocation.merge_size, self.images)

    def prompt_segments(self, conversation: Sequence[Message], think: bool = False) -> list[list[int]]:
        """Returns the token ids of a prompt, split at its n `<image>` places into n + 1 lists, which may be empty."""
        return [self.encode_text(text) for text in render(conversation, think=think).split(IMAGE)]

    def video_time_ids(self, time_s: float, first: bool) -> list[int]:
        """Returns the token ids that precede a frame of a video that begins a user turn.

        For prompts that grow frame by frame; equal to the segments that `prompt_segments` gives for the whole video.
        """
        return self.encode_text((USER_TURN if first else ",") + video_time(time_s))

    def prompt_ids(
        self, conversation: Sequence[Message], visual_tokens: Sequence[int], think: bool = False
    ) -> Int64Array:
        """Returns the token ids of a prompt with one `<image>` per visual token of each frame: int64 [length].

        Raises:
            PromptError: The conversation is malformed or shows another number of frames.
        """
        return self._ids(render(conversation, think=think), visual_tokens)

    def training_ids(
        self, conversation: Sequence[Message], visual_tokens: Sequence[int]
    ) -> tuple[Int64Array, Int64Array]:
        """Returns the token ids of a conversation and its labels, both int64 [length]; untrained labels are -100.

        Raises:
            PromptError: The conversation is malformed or shows another number of frames.
        """
        segments = training_segments(conversation)
        _check_frames("".join(text for text, _ in segments), visual_tokens)
        remaining = iter(visual_tokens)
        ids: list[Int64Array] = []
        labels: list[Int64Array] = []
        for text, trained in segments:
            ids.append(self._ids(text, [next(remaining) for _ in range(text.count(IMAGE))]))
            labels.append(ids[-1] if trained else np.full_like(ids[-1], IGNORE_INDEX))
        return np.concatenate(ids), np.concatenate(labels)

    def encode_text(self, text: str) -> list[int]:
        """Returns the token ids of a text, without special tokens around it."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids, without special tokens."""
        return str(self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def _ids(self, text: str, visual_tokens: Sequence[int]) -> Int64Array:
        _check_frames(text, visual_tokens)
        first, *others = text.split(IMAGE)
        ids = self.encode_text(first)
        for tokens, after in zip(visual_tokens, others, strict=True):
            ids += [self.image_token_id] * tokens + self.encode_text(after)
        return np.array(ids, dtype=np.int64)


def _check_frames(text: str, visual_tokens: Sequence[int]) -> None:
    if (shown := text.count(IMAGE)) != len(visual_tokens):
        raise PromptError(f"the conversation shows {shown} frames, but {len(visual_tokens)} were passed")


def _load_tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            return Tokenizer.from_file(str(file))
        except Exception as err:
            raise CheckpointError(f"{file} cannot be read: {shortened(str(err))}; download it again") from err
    if not (folder / "vocab.json").is_file():
        raise CheckpointError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt")
    from transformers import AutoTokenizer  # only for checkpoints without the single-file form

    try:
        slow: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as err:
        reason = shortened(" ".join(str(err).split()))
        raise CheckpointError(f"the tokenizer of {folder} cannot be read: {reason}; download it again") from err
    return slow.backend_tokenizer  # type: ignore[no-any-return]
