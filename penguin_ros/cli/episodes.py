"""`penguin-vl episodes`: looks into the episodes of a store, also while a node writes them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penguin_models.grounding import format_object
from penguin_ros.cli.episodes_build import build
from penguin_ros.cli.output import JsonOption, print_json, stderr, stdout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from penguin_engine.scene.episode import Episode, EpisodeFilter, Place

app = typer.Typer(help="Build, list, search, export and prune the episodes of a store.", no_args_is_help=True)
app.command()(build)

FileArgument = Annotated[str, typer.Argument(help="Episode file, or postgresql:// URL.", show_default=False)]
CameraOption = Annotated[list[str] | None, typer.Option(help="Only this camera; can be repeated.")]
TIME_HELP = "UTC as 2026-05-31T12:00:00 (with an offset: local time), or stamp in seconds."
SinceOption = Annotated[str | None, typer.Option(help=f"Only from this time on: {TIME_HELP}")]
UntilOption = Annotated[str | None, typer.Option(help=f"Only up to this time: {TIME_HELP}")]
ObjectOption = Annotated[
    list[str] | None, typer.Option("--object", help="Only with an object of this label; can be repeated.")
]
NearOption = Annotated[
    str | None, typer.Option(help="Only near a place: FRAME,X,Y,Z,RADIUS in metres, as map,1.5,2,0,3.")
]
LimitOption = Annotated[int, typer.Option(help="Maximum number of episodes.", min=1)]
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@app.command("list")
def list_episodes(
    file: FileArgument,
    camera: CameraOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    label: ObjectOption = None,
    near: NearOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """List the newest episodes, in order of time."""
    from penguin_engine.scene.episodes import read_episodes

    reader, where = read_episodes(file), make_filter(camera, since, until, label, near)
    episodes, summary = reader.search(where=where, limit=limit)[::-1], reader.summary()
    if as_json:
        print_json({"total": summary.episodes, "bytes": summary.bytes, "episodes": [e.to_dict() for e in episodes]})
        return
    _print_table(episodes)
    span = (
        "" if summary.oldest_ns is None else f", {time_text(summary.oldest_ns)} to {time_text(summary.newest_ns or 0)}"
    )
    stdout.out(f"{summary.episodes} episodes, {summary.bytes / 1e6:.1f} MB{span}; {len(episodes)} shown")


@app.command()
def search(
    file: FileArgument,
    text: Annotated[str, typer.Argument(help="Words to find in captions and labels.", show_default=False)],
    camera: CameraOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    label: ObjectOption = None,
    near: NearOption = None,
    limit: LimitOption = 20,
    as_json: JsonOption = False,
) -> None:
    """Find episodes by words; the most relevant come first, equally relevant ones by time, newest first."""
    from penguin_engine.scene.episodes import read_episodes

    if not any(map(str.isalnum, text)):
        raise typer.BadParameter("no word to search for; `penguin-vl episodes list` shows the newest episodes")
    episodes = read_episodes(file).search(text, make_filter(camera, since, until, label, near), limit)
    if as_json:
        print_json({"episodes": [episode.to_dict() for episode in episodes]})
    elif episodes:
        _print_table(episodes)
    else:
        stdout.out("no episode was found")


@app.command()
def show(
    file: FileArgument,
    number: Annotated[int, typer.Argument(metavar="ID", help="Number of the episode, as listed.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="JPEG file to write the picture to.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print everything about one episode, and write its picture to a file."""
    from penguin_engine.scene.episodes import read_episodes
    from penguin_models.atomic_write import atomic_write
    from penguin_models.errors import EpisodeError

    reader = read_episodes(file)
    episode = reader.get(number)
    if episode is None:
        raise EpisodeError(f"{reader.name} has no episode {number}; `penguin-vl episodes list` shows what it holds")
    if out is not None:
        if out.exists() and Path(file).exists() and out.samefile(file):
            raise EpisodeError(f"{out} holds the episodes; choose another file for --out")
        if not episode.jpeg:
            raise EpisodeError(f"episode {number} was stored without a picture; leave out --out")
        with atomic_write(out, "wb") as picture:
            picture.write(episode.jpeg)
    if as_json:
        print_json(episode.to_dict())
        return
    for line in _facts(episode):
        stdout.out(_printable(line))
    if out is not None:
        stdout.out(f"written to {out}")


def _facts(episode: Episode) -> Iterator[str]:
    robot = f"robot {episode.robot}, " if episode.robot else ""
    yield f"episode {episode.id}, {robot}{episode.camera}, frame {episode.frame_id or '-'}"
    yield f"time     {time_text(episode.stamp_ns)} (stamp {episode.stamp_ns} ns)"
    if episode.pose is not None:
        pose = episode.pose
        yield f"pose     in {pose.frame_id}: position {pose.position}, orientation {pose.orientation} (x, y, z, w)"
    yield f"caption  {episode.caption}"
    yield from (f"object   {format_object(item)}" for item in episode.objects)
    yield f"picture  {f'{len(episode.jpeg)} bytes' if episode.jpeg else 'none'}"


@app.command()
def export(
    file: FileArgument,
    out: Annotated[Path, typer.Option(help="Folder for episodes.jsonl and the pictures.")],
    camera: CameraOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    label: ObjectOption = None,
    near: NearOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write episodes as JSON lines and JPEG files, in order of time."""
    from penguin_engine.scene.episodes import read_episodes
    from penguin_models.atomic_write import atomic_write, writing

    where = make_filter(camera, since, until, label, near)
    reader, pictures, count = read_episodes(file), out / "pictures", 0
    reader.summary()  # raises before anything is written
    with writing(out), stderr.status("writing", spinner="line"):
        pictures.mkdir(parents=True, exist_ok=True)
        with atomic_write(out / "episodes.jsonl") as lines:
            for episode in reader.range(where):
                name = f"pictures/{episode.id}.jpg" if episode.jpeg else None
                if name is not None:
                    (out / name).write_bytes(episode.jpeg)
                lines.write(f"{json.dumps(episode.to_dict() | {'picture': name})}\n")
                count += 1
    if as_json:
        print_json({"episodes": count, "file": str(out / "episodes.jsonl")})
    else:
        stdout.out(f"{count} episodes in {out / 'episodes.jsonl'}")


@app.command()
def prune(
    file: FileArgument,
    max_mb: Annotated[float | None, typer.Option(help="Size to prune to in megabytes, at least 4.", min=4)] = None,
    max_days: Annotated[float | None, typer.Option(help="Age to prune to in days before the newest episode.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Delete the oldest episodes, down to a size or an age; no node may be writing the file."""
    from penguin_engine.scene.episode import Quota
    from penguin_engine.scene.episodes import prune_episodes, read_episodes

    if max_mb is None and max_days is None:
        raise typer.BadParameter("give --max-mb, --max-days or both")
    if max_days is not None and not max_days > 0:
        raise typer.BadParameter(f"{max_days:g} days hold no episodes; it must be above 0", param_hint="--max-days")
    max_bytes = 2**62 if max_mb is None else round(min(max_mb * 1e6, 2**62))
    quota = Quota(max_bytes, float("inf") if max_days is None else max_days * 86_400)
    deleted = prune_episodes(file, quota)
    summary = read_episodes(file).summary()
    if as_json:
        print_json({"deleted": deleted, "episodes": summary.episodes, "bytes": summary.bytes})
    else:
        stdout.out(f"{deleted} episodes deleted; {summary.episodes} left, {summary.bytes / 1e6:.1f} MB")


def _print_table(episodes: Sequence[Episode]) -> None:
    from rich.markup import escape
    from rich.table import Table

    robot = ("robot",) if any(episode.robot for episode in episodes) else ()
    table = Table("id", "time (UTC)", *robot, "camera", "caption", "objects", box=None)
    for episode in episodes:
        labels = ", ".join(item.label for item in episode.objects)
        cells = (*(episode.robot for _ in robot), episode.camera, episode.caption, labels)
        table.add_row(str(episode.id), time_text(episode.stamp_ns), *(escape(_printable(cell)) for cell in cells))
    stdout.print(table)


def _printable(text: str) -> str:
    """Returns a text on one line without control characters, which could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def make_filter(
    cameras: Sequence[str] | None, since: str | None, until: str | None, labels: Sequence[str] | None, near: str | None
) -> EpisodeFilter:
    """Returns the conditions that the options give."""
    from penguin_engine.scene.episode import EpisodeFilter

    since_ns, until_ns = parse_time(since, "--since"), parse_time(until, "--until")
    if since_ns is not None and until_ns is not None and until_ns < since_ns:
        raise typer.BadParameter(
            f"{until} is before {since}, the value of --since; exchange them", param_hint="--until"
        )
    if not all(any(map(str.isalnum, label)) for label in labels or ()):
        raise typer.BadParameter("a label without letters; leave it out for any object", param_hint="--object")
    return EpisodeFilter(tuple(cameras or ()), since_ns, until_ns, tuple(labels or ()), _parse_place(near))


def parse_time(text: str | None, option: str) -> int | None:
    """Returns a time in nanoseconds since 1970; raises BadParameter if the text gives none."""
    if text is None:
        return None
    try:
        seconds = Decimal(text)
        if abs(seconds) < 2**63:
            return int(seconds * 10**9)  # exact, unlike floats
    except (ArithmeticError, ValueError):
        pass
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as err:
        message = f"{text!r} is not a time such as 2026-05-31T12:00:00 or 1780228800.5"
        raise typer.BadParameter(message, param_hint=option) from err
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def time_text(stamp_ns: int) -> str:
    """Returns a stamp in UTC, to the millisecond."""
    moment = _EPOCH + timedelta(microseconds=stamp_ns // 1000)
    return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")


def _parse_place(text: str | None) -> Place | None:
    from penguin_engine.scene.episode import Place
    from penguin_models.errors import SettingError

    if text is None:
        return None
    try:
        frame_id, x, y, z, radius = text.rsplit(",", 4)
        if not frame_id:
            raise ValueError("no frame")
        return Place(frame_id, (float(x), float(y), float(z)), float(radius))
    except (ValueError, SettingError) as err:
        message = f"{text!r} is not a place such as map,1.5,2,0,3 (frame, x, y, z, radius in metres)"
        raise typer.BadParameter(message, param_hint="--near") from err
