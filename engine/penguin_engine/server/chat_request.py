"""The body of `/v1/chat/completions`: what is understood of the OpenAI API, and what is refused.

A parameter that would change the answer and is not supported is refused unless it has its neutral value: nothing is
ignored that a client could miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.json_answers import json_grammar
from penguin_engine.server.logprobs import MAX_TOP, TokenLog
from penguin_models.errors import PromptError
from penguin_models.quoting import quoted, shortened

MAX_MESSAGES = 256
"""Most messages of a conversation."""
_MAX_PARTS = 2048  # a robot sends two for each frame in its memory
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "moderation": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
}
"""Parameters of the OpenAI API that are not supported, with the values that mean "as if it were not there"."""


class BadRequestError(PromptError):
    """A request that cannot be answered; `param` names the parameter, `code` the kind of fault."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.param, self.code = param, code


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(_Strict):
    """Text."""

    type: Literal["text"]
    text: str


class Url(_Strict):
    """Where an image or a video is: a data URI, because addresses are not fetched."""

    url: str
    detail: Literal["auto", "low", "high", "original"] = "auto"  # the size follows from the token budget


class ImagePart(_Strict):
    """An image."""

    type: Literal["image_url"]
    image_url: Url


class VideoPart(_Strict):
    """A video, as vLLM takes it."""

    type: Literal["video_url"]
    video_url: Url


class File(_Strict):
    """An uploaded file by its id, or its content as a data URI."""

    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None

    @model_validator(mode="after")
    def _is_one_file(self) -> File:
        if (self.file_id is None) is (self.file_data is None):
            raise ValueError("give either file_id or file_data")
        return self


class FilePart(_Strict):
    """An image or a video that was uploaded to `/v1/files`."""

    type: Literal["file"]
    file: File


_NoItems = Annotated[list[Any], Field(max_length=0)] | None
Part = Annotated[TextPart | ImagePart | VideoPart | FilePart, Field(discriminator="type")]


class ChatMessage(_Strict):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=_MAX_PARTS)]
    name: str | None = None
    # What an answer has besides its text, so that a client can send it back as it came.
    grounding: dict[str, Any] | None = None
    refusal: None = None
    annotations: _NoItems = None
    audio: None = None
    function_call: None = None
    tool_calls: _NoItems = None


class StreamOptions(_Strict):
    """What a stream contains besides the text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class JsonSchema(_Strict):
    """The schema that an answer follows."""

    name: str = ""
    description: str | None = None
    strict: bool | None = None  # answers always follow the schema
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class ResponseFormat(_Strict):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def grammar(self) -> str | None:
        """Returns what `Sampling.grammar` takes; raises BadRequestError if the schema cannot be followed."""
        if self.type == "text":
            return None
        if self.type == "json_schema" and self.json_schema is None:
            raise BadRequestError("response_format has no json_schema", "response_format.json_schema")
        schema = {"type": "object"} if self.json_schema is None else self.json_schema.schema_
        try:
            return json_grammar(schema)
        except PromptError as err:
            raise BadRequestError(str(err), "response_format", "invalid_schema") from err


class ChatRequest(BaseModel):
    """A conversation whose next turn is wanted."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None

    @field_validator("messages")
    @classmethod
    def _ends_with_the_user(cls, messages: list[ChatMessage]) -> list[ChatMessage]:
        if messages[-1].role != "user":
            raise ValueError(f"the last message must be the user's, it is of role {messages[-1].role!r}")
        content = messages[-1].content
        if not (content.strip() if isinstance(content, str) else any(map(_says_something, content))):
            raise ValueError("the last message is empty")
        return messages

    def sampling(self, random_seed: int) -> Sampling:
        """Returns how the answer is generated: greedily unless the request has a temperature.

        Args:
            random_seed: Taken if the request has no seed.

        Raises:
            BadRequestError: The schema of the answer cannot be followed.
        """
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            min(filter(None, (self.max_completion_tokens, self.max_tokens)), default=Sampling.max_new_tokens),
            self.temperature or 0.0,
            self.top_p or 1.0,
            random_seed if self.seed is None else self.seed % 2**63,
            stop,
            self.response_format.grammar() if self.response_format is not None else None,
        )

    def token_log(self) -> TokenLog | None:
        """Returns an empty log for the tokens of the answer; None if no log probabilities are wanted.

        Raises:
            BadRequestError: There is `top_logprobs` without `logprobs`.
        """
        if self.top_logprobs and not self.logprobs:
            raise BadRequestError(
                f"top_logprobs is {self.top_logprobs} without logprobs; set logprobs to true", "top_logprobs"
            )
        return TokenLog(self.top_logprobs or 0) if self.logprobs else None


def parse_chat(body: bytes) -> ChatRequest:
    """Returns the request in a JSON body.

    Raises:
        BadRequestError: It is not JSON, a parameter is missing or out of range, or it asks for what is not supported.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as err:
        raise _first_error(err) from err
    for name, value in (request.model_extra or {}).items():
        if name not in _NEUTRAL:
            raise BadRequestError(
                f"there is no parameter {shortened(name)}; leave it out", name[:100], "unknown_parameter"
            )
        if value is not None and value not in _NEUTRAL[name]:
            raise BadRequestError(
                f"{name} is {quoted(value)}, which is not supported; leave it out", name, "unsupported"
            )
    return request


def _first_error(error: ValidationError) -> BadRequestError:
    found = error.errors(include_url=False, include_context=False)
    # Of a union, the branch that came furthest.
    first = max(found, key=lambda each: (len(_path(each["loc"])), each["type"] != "string_type"))
    where = _path(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return BadRequestError(f"the body is not JSON: {shortened(message)}", None, "invalid_json")
    if first["type"] == "extra_forbidden":
        message = f"there is no field {shortened(str(first['loc'][-1]))}; leave it out"
    value = "" if first["type"] in ("missing", "extra_forbidden") else f" (it is {quoted(first['input'])})"
    return BadRequestError(f"{where or 'the body'}: {shortened(message)}{value}", where or None, "invalid_value")


def _says_something(part: Part) -> bool:
    return not isinstance(part, TextPart) or bool(part.text.strip())


def _path(location: Sequence[int | str]) -> str:
    """Returns the place of an error in a body, without the branches of unions that pydantic names as well."""
    path, before = "", None
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step.isidentifier() and step != "str" and not isinstance(before, int):
            path += f".{step}" if path else step
        elif isinstance(before, int) and step in ChatMessage.model_fields:
            path += f".{step}"
        before = step
    return path
