"""`penguin-vl export`: a checkpoint -> a folder that a robot runs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from penguin_ros.cli.output import JsonOption, ModelOption, RevisionOption, print_json, stdout
from penguin_ros.cli.phases import Phases
from penguin_ros.stopping import stopping_like_ctrl_c

_DRAWN_SAMPLES = 4

OutOption = Annotated[
    Path,
    typer.Option(
        help="Folder to write. An earlier export in it is replaced, except TensorRT's timing.cache; a folder with "
        "anything else is refused."
    ),
]
Profile = Literal["portable", "onnxruntime"]
VisionDtypeOption = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option(help="Type of encoder and projector; default: as the decoder, 16-bit if quantised."),
]


def export(
    model: ModelOption,
    out: OutOption,
    profile: Annotated[
        Profile,
        typer.Option(
            help="portable: standard operators, for TensorRT and ONNX Runtime; onnxruntime: fastest on ONNX Runtime's "
            "CPU provider, and for ONNX Runtime alone."
        ),
    ] = "portable",
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(help="Type of the weights. [default: as stored; float32 for an encoder]"),
    ] = None,
    vision_dtype: VisionDtypeOption = None,
    sample: Annotated[
        list[Path] | None, typer.Option(help="Image for the check of a float16 export's ranges, can be repeated.")
    ] = None,
    encoder: Annotated[
        bool, typer.Option(help="Write only the vision encoder, without projector, for `penguin-vl embed`.")
    ] = False,
    revision: RevisionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write graphs, weights, tokenizer and manifest: all that a robot needs without torch and transformers."""
    from penguin_engine.bench.event_clips import drawn_samples
    from penguin_engine.export.checkpoint_to_onnx import ExportOptions
    from penguin_engine.export.checkpoint_to_onnx import export as run
    from penguin_models.hub import resolve_checkpoint
    from penguin_models.media import load_image

    if revision is not None:
        model = str(resolve_checkpoint(model, revision))
    if encoder:
        if vision_dtype is not None or sample:
            raise typer.BadParameter("--vision-dtype and --sample are for whole models", param_hint="--encoder")
        _export_encoder(model, out, profile, dtype, as_json)
        return
    samples = [load_image(path) for path in sample or []] or drawn_samples(_DRAWN_SAMPLES)
    with stopping_like_ctrl_c(), Phases() as phases:
        manifest = run(model, out, ExportOptions(profile, dtype, vision_dtype, samples=samples), phases.show)
    size = sum(file.bytes for file in manifest.files.values())
    if as_json:
        names = ("profile", "opset", "precision", "activation_ranges")
        files = {name: file.bytes for name, file in manifest.files.items()}
        described = {name: getattr(manifest, name) for name in names}
        print_json({"folder": str(out), **described, "bytes": size, "files": files})
        return
    stdout.out(
        f"{out}: {manifest.profile} profile, opset {manifest.opset}, {manifest.precision}, {size / 2**20:.1f} MiB"
    )
    if ranges := manifest.activation_ranges:
        stdout.out(
            f"largest activation of a linear layer on the samples: "
            f"{max(ranges['largest_input'], ranges['largest_output']):g}; float16 ends at {ranges['limit']:g}"
        )


def _export_encoder(model: str, out: Path, profile: Profile, dtype: str | None, as_json: bool) -> None:
    from penguin_engine.export.encoder_to_onnx import export_encoder

    with stopping_like_ctrl_c(), Phases() as phases:
        manifest = export_encoder(model, out, profile, dtype or "float32", phases.show)
    files = {name: file.bytes for name, file in manifest.files.items()}
    if as_json:
        described = {"profile": manifest.profile, "dtype": manifest.dtype, "hidden": manifest.hidden}
        print_json({"folder": str(out), **described, "bytes": sum(files.values()), "files": files})
        return
    stdout.out(
        f"{out}: encoder with features of {manifest.hidden} numbers, {manifest.profile} profile, {manifest.dtype}, "
        f"{sum(files.values()) / 2**20:.1f} MiB"
    )
