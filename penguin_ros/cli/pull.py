"""`penguin-vl pull`: a checkpoint from the model hub."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from penguin_models.config import CHECKPOINT_FILES
from penguin_models.errors import CheckpointError
from penguin_ros.cli.output import JsonOption, print_json, stderr, stdout

# Room that must stay free beside the download.
_SPARE_BYTES = 512 * 2**20


def pull(
    repo: Annotated[str, typer.Argument(help="Repository, for example tencent/Penguin-VL-2B.")],
    out: Annotated[Path | None, typer.Option(help="Folder to put it in; the hub's cache if not given.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Download a checkpoint; an interrupted download goes on where it stopped."""
    from huggingface_hub import constants, snapshot_download

    target = out if out is not None else Path(constants.HF_HUB_CACHE)
    missing = _ask_hub(repo, lambda: _missing_bytes(repo, revision, out))
    _check_space(repo, target, missing)
    if not as_json:
        stderr.print(f"{repo}: {missing / 1e9:.2f} GB to download")
    folder = _ask_hub(
        repo, lambda: snapshot_download(repo, revision=revision, allow_patterns=CHECKPOINT_FILES, local_dir=out)
    )
    if as_json:
        print_json({"repo": repo, "folder": str(folder), "downloaded_bytes": missing})
    else:
        stdout.out(str(folder))


def _missing_bytes(repo: str, revision: str | None, out: Path | None) -> int:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError, HfHubHTTPError

    try:
        files: Any = snapshot_download(
            repo, revision=revision, allow_patterns=CHECKPOINT_FILES, local_dir=out, dry_run=True
        )
    except DryRunError as err:
        # What the hub said (no such repository, gated) hides behind this.
        raise (err.__cause__ if isinstance(err.__cause__, HfHubHTTPError) else err) from err
    return sum(file.file_size or 0 for file in files if file.will_download)


def _check_space(repo: str, target: Path, missing: int) -> None:
    existing = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if missing + _SPARE_BYTES > free:
        raise CheckpointError(
            f"{repo} needs {missing / 1e9:.1f} GB, {existing} has {free / 1e9:.1f} GB free; "
            "free some space, or choose another disk with --out"
        )


def _ask_hub(repo: str, call: Any) -> Any:
    """Runs a call to the hub; whatever goes wrong becomes one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return call()
    except HFValidationError as err:
        raise CheckpointError(f"{repo!r} is not a repository name such as tencent/Penguin-VL-2B") from err
    except GatedRepoError as err:
        raise CheckpointError(
            f"{repo} is gated: accept its terms on the hub, then log in with `hf auth login`"
        ) from err
    except RepositoryNotFoundError as err:
        raise CheckpointError(f"{repo} does not exist on the model hub, or needs `hf auth login`") from err
    except RevisionNotFoundError as err:
        raise CheckpointError(f"{repo} has no such revision on the model hub") from err
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EROFS):
            raise CheckpointError(f"{repo} cannot be written: {err.strerror} ({err.filename})") from err
        raise _unreachable(repo, err) from err
    except (HfHubHTTPError, LocalEntryNotFoundError) as err:
        raise _unreachable(repo, err) from err


def _unreachable(repo: str, err: Exception) -> CheckpointError:
    cause = type(err.__cause__ or err).__name__
    return CheckpointError(
        f"the model hub cannot be reached for {repo} ({cause}); check the network and run the same command again: "
        "what is already downloaded is kept"
    )
