"""`penguin-vl episodes build`: turns a bag into episodes, without ROS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penguin_models.types import UInt8Array
from penguin_ros.cli.output import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    RevisionOption,
    RuntimeOption,
    existing_model,
    print_json,
    print_note,
    stdout,
    working,
)
from penguin_ros.cli.phases import Phases

if TYPE_CHECKING:
    from penguin_engine.scene.episode import Episode
    from penguin_engine.scene.episodes import EpisodeStore
    from penguin_models.grounding import Grounding

_FLUSH_S = 30.0


def build(
    bag: Annotated[Path, typer.Argument(help="Bag folder, or a single .mcap, .db3 or .bag file.", show_default=False)],
    out: Annotated[str, typer.Option(help="Episode file or postgresql:// URL; what it holds stays and is completed.")],
    camera: Annotated[list[str] | None, typer.Option(help="Image topic; can be repeated; all if omitted.")] = None,
    fps: Annotated[float, typer.Option(help="Images per second among which keyframes are chosen.", min=0.001)] = 2.0,
    fixed_frame: Annotated[str, typer.Option(help="Frame of the camera's pose, from /tf and /tf_static.")] = "map",
    model: Annotated[
        str | None,
        typer.Option(help="Model that captions keyframes; without, recorded captions.", callback=existing_model),
    ] = None,
    revision: RevisionOption = None,
    runtime: RuntimeOption = "torch",
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a bag into episodes: keyframes with pose, and captions of the node or of a model.

    What is stored remains if the command is interrupted, and the same command goes on from there.
    """
    from penguin_engine.scene.episode import Quota
    from penguin_engine.scene.episodes import open_episodes, read_episodes
    from penguin_models.errors import EpisodeError
    from penguin_ros.episode_bag import BagEpisodes

    if model is None and (revision, runtime, device, dtype) != (None, "torch", "auto", None):
        raise typer.BadParameter("--revision, --runtime, --device and --dtype go with it", param_hint="--model")
    if Path(out).is_file() and Path(out).stat().st_size:
        read_episodes(out).summary()  # raises an error if it is something else, which `open_episodes` would rename
    with working(f"reading {bag}"):
        episodes = BagEpisodes(bag, camera or [], fps, fixed_frame)
    captions = 0
    with ExitStack() as stack:
        store = stack.enter_context(open_episodes(out, Quota(2**62, float("inf"))))
        if store.status.failing:  # before a model is loaded
            raise EpisodeError(store.status.problem)
        caption = None if model is None else _open_model(runtime, model, device, dtype, revision)
        progress = stack.enter_context(Phases())
        for episode, rgb in episodes:
            progress.show("images", episodes.images, episodes.total)
            if caption is not None and rgb is not None and not _is_captioned(store, episode):
                grounding = caption(rgb)
                episode = replace(episode, caption=grounding.text, objects=grounding.objects)
                captions += 1
            _store(store, episode, rgb)
        progress.show("images", episodes.total, episodes.total)
        _flush(store)
        status = store.status
    notes = list(episodes.notes)
    if status.problem:  # such as damage, after which a new file was begun
        notes.append(f"{status.lost} episodes are lost: {status.problem}" if status.lost else status.problem)
    for note in notes:
        print_note(note)
    if as_json:
        cameras = {name: asdict(counts) for name, counts in episodes.counts.items()}
        print_json({"episodes": status.written, "captions_of_model": captions, "cameras": cameras, "notes": notes})
        return
    for name, counts in episodes.counts.items():
        found = f"{counts.images} images, {counts.episodes} episodes, {counts.captions} captions, {counts.poses} poses"
        stdout.out(f"{name}: {found}")
    stdout.out(f"{status.written} episodes in {store.name}" + (f", {captions} captioned" if model else ""))


def _open_model(
    runtime: str, model: str, device: str, dtype: str | None, revision: str | None
) -> Callable[[UInt8Array], Grounding]:
    """Returns a function that captions an image as the node does."""
    from penguin_engine.runtimes.loading import open_runtime
    from penguin_engine.scene.camera_state import CaptionConfig
    from penguin_engine.scene.generation import Sampling
    from penguin_engine.scene.offline import ask

    config = CaptionConfig()
    with working(f"loading {model}"):
        opened, processor = open_runtime(runtime, model, device, dtype, revision=revision)
    sampling = Sampling(config.max_new_tokens)
    return lambda rgb: ask(opened, processor, config.prompt, images=[rgb], sampling=sampling).grounding


def _is_captioned(store: EpisodeStore, episode: Episode) -> bool:
    """Returns whether an episode has a caption, or has got one in an earlier run."""
    from penguin_engine.scene.episode import EpisodeFilter

    if episode.caption:
        return True
    where = EpisodeFilter((episode.camera,), episode.stamp_ns, episode.stamp_ns)
    return any(earlier.caption for earlier in store.range(where))


def _store(store: EpisodeStore, episode: Episode, rgb: UInt8Array | None) -> None:
    _flush(store)  # so that the queue has room whatever the size of the image
    store.add(episode, rgb)


def _flush(store: EpisodeStore) -> None:
    from penguin_models.errors import EpisodeError

    if not store.flush(_FLUSH_S):
        raise EpisodeError(f"{store.status.problem or 'the disk is too slow'}; what was stored before remains")
