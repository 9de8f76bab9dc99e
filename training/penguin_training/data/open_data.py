"""Opens the data of a stage: annotation files with length indexes, or a stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from penguin_models.errors import DataError, SettingError
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.indexed_data import IndexedData
from penguin_training.data.length_index import load_index
from penguin_training.data.packing import PackingPlan
from penguin_training.data.sample_reader import SampleReader
from penguin_training.data.streamed_data import StreamedData
from penguin_training.model.blueprint import Blueprint
from penguin_training.settings.stage import StageSettings


def open_data(settings: StageSettings, blueprint: Blueprint) -> IndexedData | StreamedData:
    """Opens the stage's data; raises DataError if a file or its length index is missing or too much is unusable."""
    reader = make_reader(settings, blueprint)
    if settings.data.streamed:
        return StreamedData(settings, reader)
    files = [(file, load_index(file, reader)) for file in annotation_files(settings)]
    sizes = np.concatenate([index.packed_sizes() for _, index in files])
    repeats = [(len(file), shown.repeat) for (file, _), shown in zip(files, settings.data.files, strict=True)]
    plan = PackingPlan(sizes, repeats, settings.budgets.tokens, settings.engine.seed)
    data = IndexedData(settings, files, plan, reader)
    if unusable := data.unusable:
        check_unusable(len(unusable), len(sizes), settings.data.max_bad_share, unusable[0])
    if not data.micro_batches_per_epoch:
        example = f" ({': '.join(data.unusable[0])})" if data.unusable else ""
        raise DataError(f"no sample of data.files can be used{example}; `penguin-vl prepare lengths` names all reasons")
    return data


def make_reader(settings: StageSettings, blueprint: Blueprint) -> SampleReader:
    """Returns the reader of the stage's samples."""
    budgets, rewards = settings.budgets, settings.rewards
    longest = budgets.tokens
    if context := blueprint.context_tokens:
        answer = rewards.max_new_tokens if rewards else 0
        if answer >= context:
            raise SettingError(
                f"rewards.max_new_tokens is {answer}, but the decoder's context is {context} tokens for a question and "
                "its answer; lower it"
            )
        longest = min(longest, context - answer)
    return SampleReader(
        blueprint.processor,
        settings.data,
        longest,
        budgets.visual_tokens,
        multimodal=settings.kind == "multimodal",
        reconstructs=settings.reconstruction is not None,
        seed=settings.engine.seed,
        rewards=rewards is not None,
    )


def annotation_files(settings: StageSettings) -> list[AnnotationFile]:
    """Opens the stage's annotation files; raises DataError if one is missing, empty or not JSON."""
    root = Path(settings.data.root) if settings.data.root else None
    if root is not None and not root.is_dir():
        raise DataError(f"data.root {root} is not a folder")
    return [
        AnnotationFile((root or Path()) / file.name, root, file.only, file.conversations)
        for file in settings.data.files
    ]


def check_unusable(unusable: int, read: int, max_share: float, example: tuple[str, str]) -> None:
    """Raises DataError if too many samples cannot be used, with (id, reason) of one as an example.

    Below 200 samples the limit is that of 200, so that a single bad sample of a few does not count as too many.
    """
    if unusable > max_share * max(read, 200):
        raise DataError(
            f"{unusable} of {read} samples cannot be used, data.max_bad_share allows {max_share:.2%}; "
            f"for example {example[0]}: {example[1]}"
        )
