"""`penguin-vl curate`: a large set of pictures and clips -> a smaller, balanced one without copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penguin_models.errors import SettingError
from penguin_ros.cli.output import (
    DeviceOption,
    EncoderDtypeOption,
    JsonOption,
    existing_model,
    print_json,
    print_note,
    stdout,
)
from penguin_ros.cli.phases import Phases

if TYPE_CHECKING:
    from penguin_engine.runtimes.encoder import OpenEncoder
    from penguin_models.types import Float32Array, UInt8Array
    from penguin_training.curation.embedding import Embedder


def curate(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="WebDataset archives (.tar), tables (.parquet), annotation files (.jsonl), or folders."),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="Encoder: what `penguin-vl embed` takes, or a CLIP, SigLIP or other model of images that "
            "transformers reads.",
            callback=existing_model,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder; an interrupted run continues there.")],
    keep: Annotated[int, typer.Option(help="Number of samples to select.", min=1)],
    root: Annotated[
        Path | None, typer.Option(help="Folder that paths in the files are relative to. [default: that of each file]")
    ] = None,
    min_side: Annotated[int, typer.Option(help="Shortest side of a picture in pixels.", min=1)] = 64,
    max_aspect: Annotated[float, typer.Option(help="Longer side divided by the shorter one, at most.", min=1)] = 4.0,
    min_sharpness: Annotated[float, typer.Option(help="Variance of the Laplacian, at least.", min=0)] = 8.0,
    min_motion: Annotated[
        float, typer.Option(help="Largest change between frames of a clip, in levels of 0 to 255, at least.", min=0)
    ] = 3.0,
    max_distance: Annotated[
        int, typer.Option(help="Number of the 256 bits of their hashes in which duplicates may differ.", min=0, max=100)
    ] = 48,
    clusters: Annotated[
        str | None,
        typer.Option(help="Clusters of each level, the finest first, such as 1000,100,10. [default: by the samples]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the clusters.", min=0)] = 0,
    address: Annotated[
        str, typer.Option(help="Ray cluster (auto, HOST:PORT, ray://HOST:PORT); local starts Ray on this machine.")
    ] = "local",
    processes: Annotated[int, typer.Option(help="Number of processes at a time.", min=1)] = 1,
    max_tokens: Annotated[
        int, typer.Option(help="Most tokens of a picture for an encoder of ours; 256 are 224 x 224 pixels.", min=1)
    ] = 256,
    gpus: Annotated[float, typer.Option(help="GPUs of each process that runs the encoder.", min=0)] = 0.0,
    device: DeviceOption = "auto",
    dtype: EncoderDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Select a balanced set of samples, without damaged, poor and repeated ones.

    Sample by sample: decoding and filters; then deduplication, embedding, hierarchical clusters, and a balanced
    selection of the farthest points of each cluster. Writes the samples, why others were dropped, and a report.
    """
    from penguin_training.curation.pipeline import curate as run_steps
    from penguin_training.curation.results import CurationRun
    from penguin_training.curation.settings import CurationSettings, Filters
    from penguin_training.curation.shards import find_shards
    from penguin_training.curation.workers import Workers

    filters = Filters(min_side, max_aspect, min_sharpness, min_motion)
    try:
        settings = CurationSettings(keep, model, filters, max_distance, _levels(clusters), seed)
    except SettingError as err:  # the other values are in their limits
        raise typer.BadParameter(str(err), param_hint="--clusters") from err
    run = CurationRun(out.absolute(), settings, find_shards(inputs, root, out))
    with Phases() as progress:
        summary = run_steps(
            run, OpenModel(model, device, dtype, max_tokens), Workers(address, processes, gpus), progress.show
        )
    for name, detail in summary.unreadable:
        print_note(f"{name}: {detail}")
    if as_json:
        print_json({"output": str(out), **summary.to_dict()})
        return
    stdout.out(f"{out}: {summary.kept} of {summary.samples} samples selected; see {out / 'report.html'}")
    for reason, count in summary.dropped.items():
        stdout.out(f"  {reason}: {count}")


def _levels(text: str | None) -> tuple[int, ...]:
    numbers = text.split(",") if text else []
    if not all(number.strip().isdecimal() for number in numbers):
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1000,100,10", param_hint="--clusters")
    return tuple(int(number) for number in numbers)


@dataclass(frozen=True)
class OpenModel:
    """Opens the encoder in the process that uses it: our own runtimes, or transformers for other models."""

    model: str
    device: str
    dtype: str | None
    max_tokens: int

    def __call__(self) -> Embedder:
        """Returns the encoder; raises PenguinError if there is none."""
        from penguin_engine.export.encoder_manifest import ENCODER_MANIFEST
        from penguin_engine.export.manifest import MANIFEST
        from penguin_engine.runtimes.encoder import open_encoder
        from penguin_models.config import ENCODER_MODEL_TYPE, MODEL_TYPE, read_json
        from penguin_models.encoder_from_llm import LLM_MODEL_TYPES
        from penguin_models.hub import resolve_checkpoint
        from penguin_training.curation.embedding import TransformersEmbedder

        folder = Path(self.model).expanduser()
        if any((folder / name).is_file() for name in (ENCODER_MANIFEST, MANIFEST)):
            return _PenguinEmbedder(open_encoder(folder, self.device, self.dtype), self.max_tokens)
        folder = resolve_checkpoint(self.model)
        if read_json(folder / "config.json").get("model_type") in (ENCODER_MODEL_TYPE, MODEL_TYPE, *LLM_MODEL_TYPES):
            return _PenguinEmbedder(open_encoder(folder, self.device, self.dtype), self.max_tokens)
        return TransformersEmbedder(str(folder), self.device, self.dtype)


@dataclass(frozen=True)
class _PenguinEmbedder:
    encoder: OpenEncoder
    max_tokens: int

    def __call__(self, images: Sequence[UInt8Array]) -> Float32Array:
        """Returns the mean over the tokens of each image."""
        import numpy as np

        return np.stack([tokens.mean(axis=0) for tokens in self.encoder(images, self.max_tokens)])
