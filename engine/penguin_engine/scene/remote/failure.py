"""RequestFailure: why a server did not answer, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from penguin_models.errors import ContextLengthError, PenguinError, PromptError, RemoteServerError


@dataclass(eq=False)
class RequestFailure(Exception):  # noqa: N818 - internal: the caller gets `error`
    """A request that failed.

    `kind` is "unreachable" (no connection), "late" (no token in time), "busy" (429), "failed" (a server's error),
    "broken" (ended in the middle), or "refused" (any other status, which a second try would not change).
    """

    kind: str
    text: str  # what happened, as the end of a sentence about the server
    retry_after_s: float = 0.0  # what the server asks for
    status: int = 0  # of HTTP; 0 if there is none
    code: str | None = None  # of the OpenAI API

    @property
    def may_retry(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in ("unreachable", "busy", "failed", "broken")

    @property
    def replied(self) -> bool:
        """Whether the server is there and answers requests."""
        return self.kind in ("busy", "refused")

    @property
    def refuses_logprobs(self) -> bool:
        """Whether the request was refused because it asked for the probabilities of tokens."""
        return self.kind == "refused" and self.status in (400, 422) and "logprobs" in self.text

    def error(self, server: str) -> PenguinError:
        """Returns what the caller gets; `server` names the server."""
        if self.kind == "refused" and self.status in (400, 413, 422):
            kind = ContextLengthError if self.code == "context_length_exceeded" else PromptError
            return kind(f"{server} {self.text}")
        return RemoteServerError(f"{server} {self.text}")
