"""`penguin-vl ask`: questions about images, a video or a bag, or to a running node."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.json_answers import OBJECTS, grammar_of
from penguin_models.errors import MediaError
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.media import FPS, MAX_FRAMES, MAX_IMAGE_PIXELS, Clip, ClipFrame, VideoFile, load_image
from penguin_models.types import UInt8Array
from penguin_ros.cli.ask_running import ask_running
from penguin_ros.cli.chat import converse, print_turns
from penguin_ros.cli.episodes import TIME_HELP
from penguin_ros.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    RevisionOption,
    RuntimeOption,
    print_json,
    print_note,
    stdout,
    working,
)

if TYPE_CHECKING:
    from penguin_engine.runtimes.base import Runtime
    from penguin_engine.scene.generation import AnswerHooks, Sampling
    from penguin_models.processor import Processor


def ask(
    context: typer.Context,
    words: Annotated[str | None, typer.Argument(metavar="QUESTION", help="The question.")] = None,
    question: Annotated[str | None, typer.Option("--question", "-q", help="The question, as an option.")] = None,
    model: Annotated[str | None, typer.Option(help="Checkpoint folder, or owner/name on the model hub.")] = None,
    revision: RevisionOption = None,
    node: Annotated[str | None, typer.Option(help="Running node to ask instead of a model, such as /penguin.")] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Image topic the question is about; all if omitted.")] = None,
    horizon: Annotated[float, typer.Option(help="Seconds the node looks back; 0 for all.", min=0.0)] = 0.0,
    since: Annotated[str | None, typer.Option(help=f"The node looks at this time and later: {TIME_HELP}")] = None,
    until: Annotated[str | None, typer.Option(help=f"The node looks at this time and earlier: {TIME_HELP}")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Image file; boxes refer to the last one.")] = None,
    video: Annotated[Path | None, typer.Option(help="Video file.")] = None,
    bag: Annotated[Path | None, typer.Option(help="Bag folder, or a single .mcap or .db3 file.")] = None,
    topic: Annotated[str | None, typer.Option(help="Image topic of the bag; required if it has several.")] = None,
    fps: Annotated[float, typer.Option(help="Sampled frames per second of video.", min=0.001)] = FPS,
    max_frames: Annotated[int, typer.Option(help="Maximum number of sampled frames.", min=1)] = MAX_FRAMES,
    max_image_pixels: Annotated[
        int, typer.Option(help="Refuse images and frames with more pixels, before they are decoded.", min=1)
    ] = MAX_IMAGE_PIXELS,
    policy: Annotated[
        Literal["reference", "novelty"],
        typer.Option(help="Keyframe policy for videos: the released rule, or the node's default."),
    ] = "reference",
    max_tokens: Annotated[
        int | None, typer.Option(help="Budget of visual tokens; the checkpoint's if omitted.", min=1)
    ] = None,
    allocation: Annotated[
        Literal["strict", "reference"],
        typer.Option(help="strict: never above source size or budget; reference: as released."),
    ] = "strict",
    max_new_tokens: Annotated[int | None, typer.Option(help="Maximum length of the answer in tokens.", min=1)] = None,
    temperature: Annotated[float, typer.Option(help="0 selects the most likely token.", min=0.0)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the most likely tokens of this total.", max=1.0)] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of sampling; the same seed gives the same answer.", min=0)] = 0,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    system: Annotated[str, typer.Option(help="System prompt; a node has its parameter system_prompt.")] = "",
    schema: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="JSON schema that answers follow, or objects: objects with boxes."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Converse: a question per line, each after those before it.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Write the image with the boxes drawn into it.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask about images, a video or a recorded bag, or ask a running node; the answer is streamed."""
    _check(context)
    text, schema_text = words or question or "", _read_schema(schema)
    if node is not None:
        window = since, until
        ask_running(node, text, camera or [], horizon, window, max_new_tokens, as_json, schema_text, chat)
        return
    from penguin_engine.runtimes.loading import check_model, open_runtime

    assert model is not None
    check_model(model, revision)
    from penguin_engine.scene.generation import Sampling

    if save is not None:
        from penguin_ros.overlay import check_writable

        check_writable(save)
    grammar = grammar_of(schema_text)
    sampling = Sampling(max_new_tokens or Sampling.max_new_tokens, temperature, top_p, seed=seed, grammar=grammar)
    images = [load_image(path, max_image_pixels) for path in image or []]
    clip = _open_clip(video, bag, topic, fps, max_frames, max_image_pixels)
    with working(f"loading {model}"):
        opened, processor = open_runtime(runtime, model, device, dtype, revision=revision)
    options = max_tokens, allocation, sampling
    if chat:
        _chat(opened, processor, text, images, clip, policy, options, system, as_json)
        return
    from penguin_engine.scene.offline import ask as run

    shown_policy = _policy(policy) if clip else None
    answer = run(opened, processor, text, images, clip, shown_policy, *options, hooks=_hooks(as_json), system=system)
    if save is not None:
        from penguin_ros.overlay import save_overlay

        shown = clip.last if clip is not None else images[-1]
        assert shown is not None
        save_overlay(save, shown, answer.grounding.objects)
    notes = clip.notes if clip is not None else []
    if as_json:
        print_json({**answer.to_dict(), "notes": notes})
    else:
        _print_grounding(answer)
    for note in notes:
        print_note(note)


def _chat(
    runtime: Runtime,
    processor: Processor,
    first: str,
    images: Sequence[UInt8Array],
    clip: _RecordingClip | None,
    policy: str,
    options: tuple[int | None, str, Sampling],
    system: str,
    as_json: bool,
) -> None:
    """Reads the files once, then answers questions about them."""
    from penguin_engine.scene.file_chat import FileChat
    from penguin_engine.scene.offline import Media, PolicedClip

    media: list[Media] = [*images, *([PolicedClip(clip, _policy(policy))] if clip else [])]
    with closing(FileChat(runtime, processor, media, *options, system=system)) as conversation:
        for note in clip.notes if clip is not None else []:
            print_note(note)

        def answer(question: str) -> None:
            found = conversation.ask(question, _hooks(as_json))
            if as_json:
                print_json({"question": question, **found.to_dict()})
            else:
                _print_grounding(found)

        converse(first, answer, as_json)


def _hooks(as_json: bool) -> AnswerHooks:
    from penguin_engine.scene.generation import AnswerHooks

    return AnswerHooks() if as_json else AnswerHooks(on_text=lambda piece, tokens: stdout.out(piece, end=""))


def _read_schema(schema: str | None) -> str:
    """Returns the text of a schema's file, or the name of the built-in schema."""
    if schema is None or schema == OBJECTS:
        return schema or ""
    try:
        text = Path(schema).read_text(encoding="utf-8")
    except (OSError, ValueError) as err:
        reason = err.strerror if isinstance(err, OSError) else "it is not a text file in UTF-8"
        raise typer.BadParameter(f"{schema!r} cannot be read: {reason}", param_hint="--schema") from err
    if not text.strip():
        raise typer.BadParameter(f"{schema!r} is empty; write a JSON schema into it", param_hint="--schema")
    return text


_FOR_NODES = {"camera", "horizon", "since", "until"}
_FOR_BOTH = {"words", "question", "node", "max_new_tokens", "schema", "chat", "as_json"}


def _check(context: typer.Context) -> None:
    """Rejects options that contradict each other or would be ignored."""
    options = context.params
    used = [name for name in options if _was_used(context, name)]
    asked = [options[name] for name in ("words", "question") if options[name] is not None]
    if len(asked) != 1 and not (options["chat"] and not asked):
        raise typer.BadParameter("give one question", param_hint="QUESTION")
    if options["node"] is not None:
        if foreign := [name for name in used if name not in _FOR_BOTH | _FOR_NODES]:
            message = f"a node has its own model, cameras and settings: leave out {_option(foreign[0])}"
            raise typer.BadParameter(message, param_hint="--node")
        return
    if options["model"] is None:
        raise typer.BadParameter("give --model, or --node to ask a running node", param_hint="--model")
    if options["video"] is not None and options["bag"] is not None:
        raise typer.BadParameter("give either --video or --bag", param_hint="--video")
    if options["save"] is not None and options["chat"]:
        raise typer.BadParameter("it goes with a single question: leave out --chat", param_hint="--save")
    if options["save"] is not None and not (options["image"] or options["video"] or options["bag"]):
        raise typer.BadParameter("there is no image to draw into", param_hint="--save")
    if not 0 < options["top_p"] <= 1:
        raise typer.BadParameter(f"{options['top_p']} is not above 0 and at most 1", param_hint="--top-p")
    has_clip = options["video"] is not None or options["bag"] is not None
    for names, applies, needed in (
        (_FOR_NODES, False, "--node"),
        ({"topic"}, options["bag"] is not None, "--bag"),
        ({"fps", "max_frames", "policy"}, has_clip, "--video or --bag"),
        ({"max_image_pixels"}, has_clip or bool(options["image"]), "--image, --video or --bag"),
        ({"top_p", "seed"}, options["temperature"] > 0, "--temperature above 0"),
    ):
        for name in used:
            if name in names and not applies:
                raise typer.BadParameter(f"it goes with {needed}", param_hint=_option(name))


def _was_used(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class _RecordingClip:
    """A clip that remembers the last frame it yielded."""

    def __init__(self, clip: Clip):
        self._clip = clip
        self.last: UInt8Array | None = None

    def __iter__(self) -> Iterator[ClipFrame]:
        for frame in self._clip:
            self.last = frame.rgb
            yield frame

    @property
    def notes(self) -> list[str]:
        """Sentences about what is unusual in the file, once it has been read."""
        return list(getattr(self._clip, "notes", []))


def _policy(name: str) -> KeyframePolicy:
    if name == "novelty":
        from penguin_models.novelty_policy import NoveltyPolicy

        return NoveltyPolicy()
    if importlib.util.find_spec("torch") is None:
        raise MediaError("the released keyframe rule needs torch: pip install torch, or take --policy novelty")
    from penguin_models.reference_policy import ReferencePolicy

    return ReferencePolicy()


def _open_clip(
    video: Path | None, bag: Path | None, topic: str | None, fps: float, max_frames: int, max_pixels: int
) -> _RecordingClip | None:
    if video is not None:
        return _RecordingClip(VideoFile(video, fps, max_frames, max_pixels))
    if bag is not None:
        from penguin_ros.bags import BagClip

        return _RecordingClip(BagClip(bag, topic, fps, max_frames, max_pixels))
    return None


def _print_grounding(answer: Answer) -> None:
    """Prints what follows an answer that was streamed."""
    stdout.out("\n")
    result = answer.to_dict()
    for item in result["objects"]:
        box = "({:.0f}, {:.0f}) to ({:.0f}, {:.0f}) px".format(*item["box_px"]) if item["box_px"] else "no image"
        stdout.out(f"  {item['label']}: {box}")
    for span in result["time_ranges"]:
        stdout.out(f"  from {span['start_s']:.2f} s to {span['end_s']:.2f} s")
    if result["malformed_boxes"]:
        stdout.out(f"  {result['malformed_boxes']} boxes could not be read")
    print_turns(result)
    tokens, seconds = result["tokens"], result["seconds"]
    frames = f"{result['frames']} frames ({result['keyframes']} key)"
    stdout.out(
        f"{frames}, {tokens['visual']} visual + {tokens['prompt'] - tokens['visual']} text tokens in, "
        f"{tokens['generated']} out ({result['ended_by']}); "
        + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    )
