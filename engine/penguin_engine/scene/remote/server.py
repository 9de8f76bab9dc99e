"""The HTTP side of a remote server, by the official client of the OpenAI API: streams pieces, and explains failures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncGenerator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from penguin_engine.scene.remote.failure import RequestFailure
from penguin_models.errors import RemoteServerError
from penguin_models.quoting import quoted, shortened

_CONNECT_S = 5.0
_CHECK_S = 10.0
_NO_KEY = "none"  # the client insists on one


class OpenAIServer:
    """One model of a server. Everything runs in the caller's event loop.

    Attributes:
        name: The server, as the beginning of a sentence.
    """

    def __init__(self, base_url: str, model: str, api_key: str | None):
        """Creates the client; nothing is sent.

        Args:
            base_url: URL of the API, which usually ends in /v1.
            model: Name of the model on the server.
            api_key: Key; None for none.
        """
        self.name = f"the server at {base_url}"
        self._base_url, self._model, self._key = base_url, model, api_key
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or _NO_KEY,
            max_retries=0,  # the brain retries, within its deadline
            timeout=openai.Timeout(None, connect=_CONNECT_S),
            # Not to another server, which would get the robot's images.
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.close()

    async def context_length(self) -> int | None:
        """Checks that the server has the model; returns its context in tokens, None if the server does not say.

        Raises:
            RequestFailure: The server cannot be reached, is not one of the OpenAI API, or refuses the key.
            RemoteServerError: It has no such model.
        """
        try:
            listed = await self._client.models.with_raw_response.list(timeout=_CHECK_S)
            models = {item["id"]: item for item in json.loads(listed.text)["data"]}
        except (ValueError, KeyError, TypeError, openai.NotFoundError) as err:
            remedy = "check base_url" if self._base_url.rstrip("/").endswith("/v1") else "should base_url end in /v1?"
            raise RequestFailure("refused", f"does not speak the OpenAI API; {remedy}") from err
        except Exception as err:
            raise self.failure(err) from err
        if self._model not in models:
            names = shortened(", ".join(map(str, models))) or "none"
            raise RemoteServerError(f"{self.name} has no model {quoted(self._model)}; its models are: {names}")
        length = models[self._model].get("max_model_len")
        return length if isinstance(length, int) and length > 0 else None

    async def stream(self, options: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Yields the pieces of an answer, as the client has them; closing it closes the request."""
        create: Any = self._client.chat.completions.create  # its overloads do not take options
        stream = await create(model=self._model, stream=True, stream_options={"include_usage": True}, **options)
        async with stream:
            async for piece in stream:
                yield piece

    def failure(self, error: Exception, began: bool = False) -> RequestFailure:
        """Returns what an exception of the client means, which may have come in the middle of an answer."""
        if isinstance(error, openai.APIStatusError):
            return self._status_failure(error)
        said = self._said(error.__cause__ or error)
        if isinstance(error, openai.APIConnectionError) and not began:
            return RequestFailure("unreachable", f"cannot be reached ({said}); is it running?")
        if isinstance(error, openai.APIError) and not isinstance(error, openai.APIConnectionError):
            return RequestFailure("broken", f"ended the answer with an error ({said})")
        return RequestFailure("broken", f"broke off in the middle of an answer ({said})")

    def _status_failure(self, error: openai.APIStatusError) -> RequestFailure:
        status, body = error.status_code, error.body if isinstance(error.body, dict) else {}
        text, wait_s = self._said(body.get("message") or error), _retry_after_s(error.response.headers)
        code = body.get("code")
        if status == 429:
            return RequestFailure("busy", f"is busy ({text})", wait_s, status)
        if status >= 500 or status == 408:
            return RequestFailure("failed", f"failed with status {status} ({text})", wait_s, status)
        if status in (401, 403):
            remedy = "set the environment variable PENGUIN_VL_API_KEY, or api_key_file, to its key"
            return RequestFailure("refused", f"refuses the API key ({text}); {remedy}", 0.0, status)
        if status < 400:
            target = shortened(error.response.headers.get("location", "nowhere"))
            return RequestFailure("refused", f"redirects to {target}; set base_url to where the API is", 0.0, status)
        code = code if isinstance(code, str) else None
        return RequestFailure("refused", f"refuses the request: {text}", 0.0, status, code)

    def _said(self, what: object) -> str:
        text = " ".join(str(what).split()) or type(what).__name__
        return shortened(text.replace(self._key, "***") if self._key else text)


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Returns the seconds of a Retry-After header, which holds seconds or a date; 0 if it holds neither."""
    value = headers.get("retry-after", "0")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
