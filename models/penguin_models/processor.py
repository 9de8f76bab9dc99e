"""Frames and conversations -> token ids and patches. No torch, no transformers: a robot's runtime can do without.

Every image and video keeps its own size. The number of `<image>` places equals the number of visual tokens by
construction, or an error says where they differ before anything runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from penguin_models.chat import IMAGE, TURN_END, USER_TURN, Message, render, training_segments, video_time
from penguin_models.config import ImageConfig, read_json
from penguin_models.errors import CheckpointError, PromptError
from penguin_models.images import patch_image
from penguin_models.token_allocation import SIZE_RULES, Allocation, grid_size, smallest_size, split_budget
from penguin_models.types import FrameKind, Int64Array, PatchedImage, Size, UInt8Array

IMAGE_MERGE_SIZE = 1
VIDEO_MERGE_SIZE = 2
IGNORE_INDEX = -100
_SIDE_FILES = (
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
    """What the allocation must know of an image or a video before its pixels are read.

    Attributes:
        native: size of its frames in pixels.
        kinds: kind of each frame; one key frame for an image.
        merge_size: patches a side that become one token.
    """

    source_size: Size
    kinds: tuple[FrameKind, ...] = (FrameKind.KEY,)
    merge_size: int = IMAGE_MERGE_SIZE

    @classmethod
    def video(cls, source_size: Size, kinds: Sequence[FrameKind]) -> Visual:
        """A video with frames of these kinds."""
        return cls(source_size, tuple(kinds), VIDEO_MERGE_SIZE)


@dataclass(eq=False)
class Processor:
    """Prepares prompts for one checkpoint.

    Attributes:
        tokenizer: of the `tokenizers` library.
        images: how pixels become patches.
        image_token_id: id of `<image>`.
        end_token_ids: ids that end an answer: `<|im_end|>`, and what config.json names.
        side_files: small tokenizer files by name, kept so that saving loses nothing.
    """

    tokenizer: Tokenizer
    images: ImageConfig
    image_token_id: int
    end_token_ids: tuple[int, ...]
    side_files: dict[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, image_token_id: int | None = None, end_token_ids: Sequence[int] = ()
    ) -> Processor:
        """Reads tokenizer and image settings of a checkpoint folder.

        Args:
            folder: has tokenizer.json and preprocessor_config.json.
            image_token_id: id of `<image>` that the model expects; read from config.json if None.
            end_token_ids: ids that end an answer besides `<|im_end|>`.

        Raises:
            CheckpointError: a file is missing or broken, or the tokenizer gives `<image>` another id.
        """
        folder = Path(folder)
        if image_token_id is None:
            image_token_id = read_json(folder / "config.json").get("image_token_index")
            if not isinstance(image_token_id, int):
                raise CheckpointError(f"{folder / 'config.json'} has no image_token_index")
        tokenizer = _with_image_token(_load_tokenizer(folder))
        if (found := tokenizer.token_to_id(IMAGE)) != image_token_id:
            raise CheckpointError(
                f"{folder}: the tokenizer gives {IMAGE} the id {found}, config.json says {image_token_id}; "
                "the files are of different checkpoints"
            )
        images = ImageConfig.from_dict(read_json(folder / "preprocessor_config.json"))
        return cls._assemble(folder, tokenizer, images, end_token_ids)

    @classmethod
    def from_llm(cls, folder: str | Path, images: ImageConfig, end_token_ids: Sequence[int] = ()) -> Processor:
        """A processor for a new model: the tokenizer of a text-only LLM, with `<image>` added where it lacks it.

        Args:
            folder: of the LLM's checkpoint.
            images: how pixels become patches.
            end_token_ids: ids that end an answer besides `<|im_end|>`.

        Raises:
            CheckpointError: the tokenizer is missing, or has no `<|im_end|>`.
        """
        folder = Path(folder)
        return cls._assemble(folder, _with_image_token(_load_tokenizer(folder)), images, end_token_ids)

    @classmethod
    def _assemble(
        cls, folder: Path, tokenizer: Tokenizer, images: ImageConfig, end_token_ids: Sequence[int]
    ) -> Processor:
        end_token_id = tokenizer.token_to_id(TURN_END)
        if end_token_id is None:
            raise CheckpointError(f"{folder}: the tokenizer has no {TURN_END} token")
        ends = tuple(dict.fromkeys((end_token_id, *end_token_ids)))
        side = {name: (folder / name).read_bytes() for name in _SIDE_FILES if (folder / name).is_file()}
        image_token_id = tokenizer.token_to_id(IMAGE)
        assert image_token_id is not None, "_with_image_token adds it"
        return cls(tokenizer, images, image_token_id, ends, side)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the files that `from_pretrained` reads."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "preprocessor_config.json").write_text(json.dumps(self.images.to_dict(), indent=2) + "\n")
        for name, content in self.side_files.items():
            (folder / name).write_bytes(content)

    def allocate(
        self, visuals: Sequence[Visual], max_tokens: int | None = None, rule: str = "strict"
    ) -> list[Allocation]:
        """Sizes for the images and videos of one prompt.

        Args:
            visuals: in the order of the prompt.
            max_tokens: visual tokens of the whole prompt; the checkpoint's setting if None.
            rule: "strict" (never above native size or budget) or "reference" (as released).

        Raises:
            BudgetError: the budget is too small for so many frames ("strict" only).
        """
        max_tokens = self.images.max_tokens if max_tokens is None else max_tokens
        if len(visuals) > 1:
            floors = [self._floor_tokens(visual) if rule == "strict" else 0 for visual in visuals]
            shares = split_budget([self._native_tokens(visual) for visual in visuals], max_tokens, floors)
        else:
            shares = [max_tokens] * len(visuals)
        return [
            SIZE_RULES[rule](
                v.source_size, v.kinds, v.merge_size, self.images.min_tokens, share, self.images.patch_size
            )
            for v, share in zip(visuals, shares, strict=True)
        ]

    def patch(
        self, frames: Iterable[UInt8Array], kinds: Sequence[FrameKind], allocation: Allocation
    ) -> Iterator[PatchedImage]:
        """Resizes and cuts frames one at a time: uint8 [H, W, 3] each, at the size that its kind has."""
        for rgb, kind in zip(frames, kinds, strict=True):
            yield patch_image(rgb, allocation.size(kind), allocation.merge_size, self.images)

    def prompt_segments(self, conversation: Sequence[Message], think: bool = False) -> list[list[int]]:
        """Token ids of a prompt cut at its `<image>` places: n places give n + 1 lists, some maybe empty."""
        return [self.encode_text(text) for text in render(conversation, think=think).split(IMAGE)]

    def video_time_ids(self, time_s: float, first: bool) -> list[int]:
        """Token ids of what stands before a frame of a video that begins a user turn.

        For prompts that grow frame by frame: equal to the parts that `prompt_parts` gives for the whole video.
        """
        return self.encode_text((USER_TURN if first else ",") + video_time(time_s))

    def prompt_ids(
        self, conversation: Sequence[Message], visual_tokens: Sequence[int], think: bool = False
    ) -> Int64Array:
        """Token ids of a prompt, each `<image>` repeated once per visual token: int64 [length].

        Args:
            conversation: see chat.py.
            visual_tokens: tokens of each frame, in the order of the prompt.
            think: let the model think before it answers.

        Raises:
            PromptError: the conversation shows another number of frames.
        """
        return self._ids(render(conversation, think=think), visual_tokens)

    def training_ids(
        self, conversation: Sequence[Message], visual_tokens: Sequence[int]
    ) -> tuple[Int64Array, Int64Array]:
        """Token ids of a whole conversation and its labels, both int64 [length]; -100 where nothing is learnt."""
        ids: list[Int64Array] = []
        labels: list[Int64Array] = []
        rest = list(visual_tokens)
        for text, trained in training_segments(conversation):
            here, rest = rest[: (places := text.count(IMAGE))], rest[places:]
            ids.append(self._ids(text, here))
            labels.append(ids[-1] if trained else np.full_like(ids[-1], IGNORE_INDEX))
        if rest:
            raise PromptError(
                f"the conversation shows {len(visual_tokens) - len(rest)} frames, {len(visual_tokens)} given"
            )
        return np.concatenate(ids), np.concatenate(labels)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def _ids(self, text: str, visual_tokens: Sequence[int]) -> Int64Array:
        texts = text.split(IMAGE)
        if len(texts) != len(visual_tokens) + 1:
            raise PromptError(f"the conversation shows {len(texts) - 1} frames, {len(visual_tokens)} given")
        ids = self.encode_text(texts[0])
        for tokens, after in zip(visual_tokens, texts[1:], strict=True):
            ids += [self.image_token_id] * tokens + self.encode_text(after)
        return np.array(ids, dtype=np.int64)

    def _native_tokens(self, visual: Visual) -> int:
        factor = self.images.patch_size * visual.merge_size
        return len(visual.kinds) * grid_size(visual.source_size, factor).area // factor**2

    def _floor_tokens(self, visual: Visual) -> int:
        factor = self.images.patch_size * visual.merge_size
        smallest = smallest_size(visual.source_size, factor, self.images.min_tokens)
        return len(visual.kinds) * smallest.area // factor**2


def _with_image_token(tokenizer: Tokenizer) -> Tokenizer:
    if tokenizer.token_to_id(IMAGE) is None:  # released tokenizers leave the placeholder to the processor
        tokenizer.add_special_tokens([AddedToken(IMAGE, special=True)])
    return tokenizer


def _load_tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            return Tokenizer.from_file(str(file))
        except Exception as err:
            raise CheckpointError(f"{file} cannot be read: {err}") from err
    if not (folder / "vocab.json").is_file():
        raise CheckpointError(f"{folder} has neither tokenizer.json nor vocab.json with merges.txt")
    from transformers import AutoTokenizer  # only for checkpoints without the single-file form

    slow: Any = AutoTokenizer.from_pretrained(folder)
    return slow.backend_tokenizer  # type: ignore[no-any-return]
