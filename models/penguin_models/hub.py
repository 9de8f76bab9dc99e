"""Folders of checkpoints: local ones, and repositories of the model hub, which are downloaded once and then cached."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from penguin_models.errors import CheckpointError

WEIGHTS = "*.safetensors"
_FILES = ("*.json", "merges.txt", WEIGHTS)
"""Files of a repository that make up a checkpoint; others (code, pictures) are not downloaded."""
_log = logging.getLogger(__name__)


def resolve_checkpoint(path_or_repo: str | Path, revision: str | None = None, *, weights: bool = True) -> Path:
    """Returns the folder of a checkpoint; downloads a repository of the model hub unless it is in the local cache.

    If the hub cannot be reached, the cache must hold the requested revision, or the default branch if none is
    requested; no other one is used in its place. Without `weights`, only the small files are downloaded. With
    them, logs a warning if the default branch is taken while other branches or tags are in the cache.

    Raises:
        CheckpointError: There is no such folder, repository or revision; a folder was combined with a revision; or the
            hub cannot be reached and the cache lacks the revision.
    """
    path = Path(path_or_repo).expanduser()
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(f"{path} is a local folder, which has no revisions; leave out revision {revision!r}")
        return path
    name = str(path_or_repo)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(f"{name} is not a checkpoint folder; give one, or owner/name on the model hub")
    folder = _download(name, revision, [file for file in _FILES if weights or file != WEIGHTS])
    if weights and not any(file.is_file() for file in folder.glob(WEIGHTS)):
        raise CheckpointError(
            f"{folder} holds no {WEIGHTS} files: {name} has none, or was not downloaded completely. With a connection, "
            f"download it: {_download_command(name, revision)}"
        )
    others = _cached_revisions(name, constants.DEFAULT_REVISION) if revision is None and weights else {}
    if others := {ref: commit for ref, commit in others.items() if commit not in (ref, folder.name)}:
        _log.warning(
            "%s: taking its default branch (commit %s); the cache also holds %s, chosen with --revision",
            *(name, folder.name[:7], ", ".join(others)),
        )
    return folder


def _download(name: str, revision: str | None, files: list[str]) -> Path:
    at_revision = f"{name} at revision {revision}" if revision else name
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except HFValidationError as err:
        raise CheckpointError(f"{name} is neither a folder nor a repository name: {err}") from err
    except RepositoryNotFoundError as err:  # also if it is gated
        raise CheckpointError(
            f"{name} is neither a folder here nor a repository that you may read on the model hub; if it is private or "
            "gated, request access there and log in: hf auth login"
        ) from err
    except RevisionNotFoundError as err:
        raise CheckpointError(
            f"{name} has no revision {revision} on the model hub; give the name of a branch or tag, or a whole commit "
            f"hash.{_held(name, revision)}"
        ) from err
    except LocalEntryNotFoundError as err:
        wanted = f"at revision {revision}" if revision else f"at its default branch {constants.DEFAULT_REVISION}"
        raise CheckpointError(
            f"{name} is not a folder here; {_unreachable(err.__cause__)}, and the local cache does not hold it "
            f"{wanted} completely.{_held(name, revision)} With a connection"
            f"{' and without that variable' if constants.HF_HUB_OFFLINE else ''}, download it: "
            f"{_download_command(name, revision)}"
        ) from err
    except (OSError, HTTPError) as err:
        raise CheckpointError(f"{at_revision} cannot be downloaded: {str(err).strip().splitlines()[0]}") from err


def _download_command(name: str, revision: str | None) -> str:
    return f"hf download {name}" + (f" --revision {revision}" if revision else "")


def _unreachable(cause: BaseException | None) -> str:
    """Returns why nothing can be downloaded."""
    if isinstance(cause, OfflineModeIsEnabled):
        return "the model hub is not asked because HF_HUB_OFFLINE is set"
    if isinstance(cause, HfHubHTTPError):
        return f"the model hub answers with error {cause.response.status_code}"
    return "the model hub cannot be reached"


def _held(name: str, revision: str | None) -> str:
    """Returns a sentence about other revisions in the cache; "" if there are none."""
    others = _cached_revisions(name, revision or constants.DEFAULT_REVISION)
    if not others:
        return ""
    return (
        f" It holds {', '.join(others)}: give the folder as the model: "
        f"{_cache_folder(name) / 'snapshots' / next(iter(others.values()))} "
        f"(or --revision {next(iter(others))}, where a command has this option)."
    )


def _cached_revisions(name: str, without: str) -> dict[str, str]:
    """Returns the commits in the cache, even partly downloaded ones, by branch, tag or their own hash, except one."""
    refs, snapshots = _cache_folder(name) / "refs", _cache_folder(name) / "snapshots"
    commits = {
        file.relative_to(refs).as_posix(): file.read_text().strip() for file in refs.rglob("*") if file.is_file()
    }
    held = {ref: commit for ref, commit in sorted(commits.items()) if (snapshots / commit).is_dir()}
    unnamed = sorted({folder.name for folder in snapshots.glob("*")} - set(commits.values()))
    return {ref: commit for ref, commit in (held | dict(zip(unnamed, unnamed, strict=True))).items() if ref != without}


def _cache_folder(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
