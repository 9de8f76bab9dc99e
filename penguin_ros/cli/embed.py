"""`penguin-vl embed`: features of images or of a bag's keyframes, from the vision encoder by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penguin_models.errors import BudgetError, MediaError
from penguin_models.types import Size
from penguin_ros.cli.output import (
    DeviceOption,
    EncoderDtypeOption,
    JsonOption,
    RevisionOption,
    existing_model,
    print_json,
    print_note,
    stdout,
    working,
)
from penguin_ros.cli.phases import Phases

if TYPE_CHECKING:
    from penguin_engine.runtimes.encoder import OpenEncoder
    from penguin_models.types import PatchedImage
    from penguin_ros.feature_file import ImageFeatures
    from penguin_ros.picture_source import Picture, Pictures

_PATCHES_PER_PASS = 4096


def embed(
    model: Annotated[
        str,
        typer.Option(
            help="Encoder, Penguin-VL or LLM checkpoint, or owner/name on the hub; or a folder made by "
            "`penguin-vl export --encoder`.",
            callback=existing_model,
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write, .npz or .parquet.")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image files, or folders of them.", show_default=False)
    ] = None,
    bag: Annotated[Path | None, typer.Option(help="Bag whose keyframes are taken.")] = None,
    camera: Annotated[
        list[str] | None, typer.Option(help="Image topic of the bag; can be repeated; all if omitted.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Images per second among which keyframes are chosen.", min=0.001)] = 2.0,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an image; the checkpoint's if omitted.", min=1)
    ] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Also write each token, not only their mean.")] = False,
    device: DeviceOption = "auto",
    dtype: EncoderDtypeOption = None,
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write features of images or of a bag's keyframes, for retrieval or as a teacher.

    An image that cannot be read is named and left out.
    """
    from penguin_engine.runtimes.encoder import open_encoder
    from penguin_ros.feature_file import check_ending, write_features
    from penguin_ros.picture_source import Pictures

    if not images and bag is None:
        raise typer.BadParameter("give image files, folders, or --bag", param_hint="IMAGES")
    if camera and bag is None:
        raise typer.BadParameter("it chooses topics of --bag", param_hint="--camera")
    check_ending(out)
    pictures = Pictures(images or [], bag, camera or [], fps)
    with working(f"loading {model}"):
        encoder = open_encoder(model, device, dtype, revision)
    with Phases() as progress:
        count = write_features(out, _features(encoder, pictures, max_tokens, progress), tokens)
        progress.show("images", pictures.total, pictures.total)
    for problem in pictures.problems:
        print_note(problem)
    if as_json:
        print_json({"file": str(out), "images": count, "left_out": pictures.problems, "hidden": encoder.hidden_size})
        return
    left_out = f", {len(pictures.problems)} left out" if pictures.problems else ""
    stdout.out(f"{out}: {count} of {pictures.total} images{left_out}, features of {encoder.hidden_size} numbers")


def _features(
    encoder: OpenEncoder, pictures: Pictures, max_tokens: int | None, progress: Phases
) -> Iterator[ImageFeatures]:
    """Encodes pictures in passes of about `_PATCHES_PER_PASS` patches."""
    waiting: list[tuple[Picture, PatchedImage]] = []
    for picture in pictures:
        progress.show("images", pictures.done, pictures.total)
        try:
            patched = encoder.patch(picture.rgb, max_tokens)
        except BudgetError as err:
            pictures.problems.append(f"{picture.name}: {err}")
            continue
        waiting.append((picture._replace(rgb=picture.rgb[:0]), patched))
        if sum(patched.grid.area for _, patched in waiting) >= _PATCHES_PER_PASS:
            yield from _encoded(encoder, waiting)
            waiting.clear()
    if waiting:
        yield from _encoded(encoder, waiting)
    elif pictures.problems and len(pictures.problems) == pictures.total:
        raise MediaError(f"none of the {pictures.total} images can be read; the first: {pictures.problems[0]}")


def _encoded(encoder: OpenEncoder, waiting: list[tuple[Picture, PatchedImage]]) -> Iterator[ImageFeatures]:
    from penguin_ros.feature_file import ImageFeatures

    features = encoder.run([patched for _, patched in waiting])
    for (picture, patched), tokens in zip(waiting, features, strict=True):
        rows, columns = (side // patched.merge_size for side in patched.grid)
        yield ImageFeatures(picture.name, picture.stamp_ns, Size(rows, columns), tokens)
