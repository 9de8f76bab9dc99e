"""Opens a remote brain: its key is read, and the server is asked for the model."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from urllib.parse import urlsplit

from penguin_engine.scene.remote.brain import RemoteBrain
from penguin_engine.scene.remote.failure import RequestFailure
from penguin_models.errors import EngineError, SettingError
from penguin_models.quoting import quoted, shortened

KEY_VARIABLE = "PENGUIN_VL_API_KEY"
_MAX_KEY_CHARS = 4096


def open_brain(base_url: str, model: str, api_key_file: str, has_local: bool) -> tuple[RemoteBrain, int | None]:
    """Opens a brain, and returns the length of the server's context in tokens, None if it does not say.

    Args:
        base_url: URL of the API, which usually ends in /v1.
        model: Name of the model on the server.
        api_key_file: File with the key; empty for the one in the environment variable, or none.
        has_local: Whether a local model answers while the server does not: it may then be unreachable for now.

    Raises:
        SettingError: A value is missing or malformed, or the key cannot be read.
        EngineError: The client of the OpenAI API is not installed.
        RemoteServerError: The server cannot be reached, is not one of the OpenAI API, refuses the key, or has no such
            model.
    """
    for name, value in (("base_url", base_url), ("model", model)):
        if not value:
            raise SettingError(f"runtime is openai and {name} is empty; set it to that of the server")
    check_url(base_url)
    if importlib.util.find_spec("openai") is None:
        raise EngineError("the openai runtime needs openai: pip install 'penguin-vl[remote]'")
    from penguin_engine.scene.remote.server import OpenAIServer

    brain = RemoteBrain(OpenAIServer(base_url, model, read_key(api_key_file)), has_local)
    try:
        return brain, brain.run(brain.server.context_length())
    except RequestFailure as failure:
        if not has_local or failure.kind == "refused":
            brain.close()
            raise failure.error(brain.server.name) from failure
        brain.counts[failure.kind] += 1
        brain.breaker.failed(failure.text, replied=False)
        return brain, None
    except BaseException:
        brain.close()
        raise


def check_url(base_url: str) -> None:
    """Raises SettingError if an URL is not that of a server, or contains a password, which everyone could read."""
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError as err:
        raise SettingError(f"base_url is {quoted(base_url)}: {err}; use one such as http://127.0.0.1:8000/v1") from err
    if parts.username is not None or parts.password is not None or parts.query:
        raise SettingError(
            f"base_url has a user, a password or a query, which everyone on the ROS network could read; put the key "
            f"into the environment variable {KEY_VARIABLE} or into api_key_file"
        )
    if parts.scheme not in ("http", "https") or not host or parts.fragment or not base_url.isprintable():
        raise SettingError(f"base_url is {quoted(base_url)}; use one such as http://127.0.0.1:8000/v1")


def read_key(file: str) -> str | None:
    """Returns the key in a file, or in the environment if `file` is empty; None if there is none.

    Raises:
        SettingError: The file cannot be read, or the key cannot be sent.
    """
    where, key = f"the environment variable {KEY_VARIABLE}", os.environ.get(KEY_VARIABLE, "")
    if file:
        where = f"api_key_file {shortened(file)}"
        try:
            with Path(file).expanduser().open("rb") as opened:
                key = opened.read(_MAX_KEY_CHARS + 2).decode()
        except (OSError, UnicodeDecodeError, ValueError) as err:
            reason = (err.strerror if isinstance(err, OSError) else None) or "it is not text"
            raise SettingError(f"{where} cannot be read: {reason}") from err
    key = key.strip()
    if file and not key:
        raise SettingError(f"{where} is empty; write the server's key into it")
    if len(key) > _MAX_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingError(f"{where} does not hold a key: one line of at most {_MAX_KEY_CHARS} ASCII characters")
    return key or None
