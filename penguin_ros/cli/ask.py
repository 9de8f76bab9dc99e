"""`penguin-vl ask`: a question about images, a video or a bag."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from penguin_engine.scene.answer import Answer
from penguin_models.errors import MediaError
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.media import FPS, MAX_FRAMES, Clip, ClipFrame
from penguin_models.types import UInt8Array
from penguin_ros.cli.ask_running import ask_running
from penguin_ros.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    RuntimeOption,
    print_json,
    stdout,
    working,
)


def ask(
    context: typer.Context,
    words: Annotated[str | None, typer.Argument(metavar="QUESTION", help="What to ask.")] = None,
    question: Annotated[str | None, typer.Option("--question", "-q", help="What to ask, as an option.")] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint folder, or owner/name on the model hub.")] = None,
    node: Annotated[str | None, typer.Option(help="Ask a running node, for example /penguin, instead.")] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Image topic that the node is to look at; all.")] = None,
    horizon: Annotated[float, typer.Option(help="Seconds that the node is to look back; 0 is all.", min=0.0)] = 0.0,
    image: Annotated[list[Path] | None, typer.Option(help="Image file; of several, boxes are of the last.")] = None,
    video: Annotated[Path | None, typer.Option(help="Video file.")] = None,
    bag: Annotated[Path | None, typer.Option(help="Bag folder, or a single .mcap or .db3 file.")] = None,
    topic: Annotated[str | None, typer.Option(help="Image topic of the bag; needed if it has several.")] = None,
    fps: Annotated[float, typer.Option(help="Sampled frames per second of video.", min=0.001)] = FPS,
    max_frames: Annotated[int, typer.Option(help="Most frames of a video.", min=1)] = MAX_FRAMES,
    policy: Annotated[
        Literal["reference", "novelty"],
        typer.Option(help="What makes a key frame of a video: the released rule, or that of the node."),
    ] = "reference",
    max_tokens: Annotated[
        int | None, typer.Option(help="Budget of visual tokens; the checkpoint's if not given.", min=1)
    ] = None,
    allocation: Annotated[
        Literal["strict", "reference"],
        typer.Option(help="strict: never above native size or budget; reference: as released."),
    ] = "strict",
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer in tokens.", min=1)] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0.0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from tokens with this probability together.", max=1.0)] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer.", min=0)] = 0,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    save: Annotated[Path | None, typer.Option(help="Write the image with the boxes drawn into it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask about images, a video or a recorded bag, or ask a running node; the answer streams as it is generated."""
    _check(context)
    text = words or question or ""
    if node is not None:
        ask_running(node, text, camera or [], horizon, max_new_tokens, as_json)
        return
    from penguin_engine.runtimes.loading import open_runtime
    from penguin_engine.scene.generation import Sampling
    from penguin_engine.scene.offline import ask as run
    from penguin_models.media import load_image

    assert model is not None
    if save is not None:
        from penguin_ros.overlay import check_writable

        check_writable(save)
    sampling = Sampling(max_new_tokens or Sampling.max_new_tokens, temperature, top_p, seed=seed)
    images = [load_image(path) for path in image or []]
    clip = _open_clip(video, bag, topic, fps, max_frames)
    with working(f"loading {model}"):
        opened, processor = open_runtime(runtime, model, device, dtype)
    answer = run(
        opened,
        processor,
        text,
        images=images,
        clip=clip,
        policy=_policy(policy) if clip else None,
        max_tokens=max_tokens,
        size_rule=allocation,
        sampling=sampling,
        on_text=(lambda piece: None) if as_json else lambda piece: stdout.out(piece, end=""),
    )
    if save is not None:
        from penguin_ros.overlay import save_overlay

        shown = clip.last if clip is not None else images[-1]
        assert shown is not None
        save_overlay(save, shown, answer.grounding.objects)
    if as_json:
        print_json(answer.to_dict())
        return
    stdout.out("\n")
    _print_grounding(answer)


_FOR_NODES = {"camera": "--camera", "horizon": "--horizon"}
_FOR_BOTH = {"words", "question", "node", "max_new_tokens", "as_json"}
_FOR_CLIPS = {"fps": "--fps", "max_frames": "--max-frames", "policy": "--policy"}
_FOR_SAMPLING = {"top_p": "--top-p", "seed": "--seed"}


def _check(context: typer.Context) -> None:
    """Refuses what does not go together: no option that was given is ignored."""
    options = context.params
    given = [name for name in options if _was_given(context, name)]
    if (options["words"] is None) == (options["question"] is None):
        raise typer.BadParameter("give one question", param_hint="QUESTION")
    if options["node"] is not None:
        if foreign := [name for name in given if name not in _FOR_BOTH | _FOR_NODES.keys()]:
            option = f"--{foreign[0].replace('_', '-')}"
            raise typer.BadParameter(
                f"a node has its own model, cameras and settings: leave out {option}", param_hint="--node"
            )
        return
    for name in given:
        if name in _FOR_NODES:
            raise typer.BadParameter("it goes with --node", param_hint=_FOR_NODES[name])
    if options["model"] is None:
        raise typer.BadParameter("give --model, or --node to ask a running node", param_hint="--model")
    if options["video"] is not None and options["bag"] is not None:
        raise typer.BadParameter("give either --video or --bag", param_hint="--video")
    for name in given:
        if name in _FOR_CLIPS and options["video"] is None and options["bag"] is None:
            raise typer.BadParameter("it goes with --video or --bag", param_hint=_FOR_CLIPS[name])
    if options["topic"] is not None and options["bag"] is None:
        raise typer.BadParameter("--topic goes with --bag", param_hint="--topic")
    if options["save"] is not None and not (options["image"] or options["video"] or options["bag"]):
        raise typer.BadParameter("there is no image to draw into", param_hint="--save")
    for name in given:
        if name in _FOR_SAMPLING and options["temperature"] == 0:
            raise typer.BadParameter("it goes with --temperature above 0", param_hint=_FOR_SAMPLING[name])
    if not 0 < options["top_p"] <= 1:
        raise typer.BadParameter(f"{options['top_p']} is not above 0 and at most 1", param_hint="--top-p")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


class _Remembering:
    """A clip that keeps the last frame it gave out."""

    def __init__(self, clip: Clip):
        self._clip = clip
        self.last: UInt8Array | None = None

    def __iter__(self) -> Iterator[ClipFrame]:
        for frame in self._clip:
            self.last = frame.rgb
            yield frame


def _policy(name: str) -> KeyframePolicy:
    if name == "novelty":
        from penguin_models.novelty_policy import NoveltyPolicy

        return NoveltyPolicy()
    if importlib.util.find_spec("torch") is None:
        raise MediaError("the released rule for key frames needs torch: pip install torch, or take --policy novelty")
    from penguin_models.reference_policy import ReferencePolicy

    return ReferencePolicy()


def _open_clip(
    video: Path | None, bag: Path | None, topic: str | None, fps: float, max_frames: int
) -> _Remembering | None:
    if video is not None:
        from penguin_models.media import VideoFile

        return _Remembering(VideoFile(video, fps, max_frames))
    if bag is not None:
        from penguin_ros.bags import BagClip

        return _Remembering(BagClip(bag, topic, fps, max_frames))
    return None


def _print_grounding(answer: Answer) -> None:
    result = answer.to_dict()
    for item in result["objects"]:
        box = "({:.0f}, {:.0f}) to ({:.0f}, {:.0f}) px".format(*item["box_px"]) if item["box_px"] else "no image"
        stdout.out(f"  {item['label']}: {box}")
    for span in result["time_ranges"]:
        stdout.out(f"  from {span['start_s']:.2f} s to {span['end_s']:.2f} s")
    if result["malformed_boxes"]:
        stdout.out(f"  {result['malformed_boxes']} boxes could not be read")
    tokens, seconds = result["tokens"], result["seconds"]
    frames = f"{result['frames']} frames ({result['key_frames']} key)"
    stdout.out(
        f"{frames}, {tokens['visual']} visual + {tokens['prompt'] - tokens['visual']} text tokens in, "
        f"{tokens['generated']} out ({result['ended_by']}); "
        + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    )
