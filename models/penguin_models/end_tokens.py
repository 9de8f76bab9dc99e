"""Which token ids end an answer, from all files of a checkpoint that name them.

An answer ends at `<|im_end|>`, at the tokenizer's `eos_token`, and at every `eos_token_id` of generation_config.json,
config.json and its `text_config`. Other fields of generation_config.json are not used: how tokens are chosen is a
setting of the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from penguin_models.chat import TURN_END
from penguin_models.config import read_json
from penguin_models.errors import CheckpointError


def read_end_token_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns the ids that end an answer, `<|im_end|>` first; each file may be missing.

    Raises:
        CheckpointError: The tokenizer has no `<|im_end|>`, a file is not JSON, or an `eos_token_id` is not an id of the
            vocabulary.
    """
    turn_end = tokenizer.token_to_id(TURN_END)
    if turn_end is None:
        raise CheckpointError(f"{folder}: the tokenizer has no {TURN_END} token")
    ids = [turn_end]
    eos_token = _read(folder / "tokenizer_config.json").get("eos_token")
    if isinstance(eos_token, dict):  # as transformers writes tokens that have properties
        eos_token = eos_token.get("content")
    if not isinstance(eos_token, str | None):
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: eos_token is {repr(eos_token)[:200]}, not a token")
    # JSON may hold half of a surrogate pair, which is no token.
    if eos_token is not None and eos_token.encode(errors="ignore").decode() == eos_token:
        eos = tokenizer.token_to_id(eos_token)
        ids += [] if eos is None else [eos]
    generation, config = _read(folder / "generation_config.json"), _read(folder / "config.json")
    text_config = config.get("text_config")
    # The embedding table may have more rows than the tokenizer has tokens.
    vocabulary = max(tokenizer.get_vocab_size(with_added_tokens=True), _size(config), _size(text_config))
    for name, values in (("generation_config.json", generation), ("config.json", config), ("text_config", text_config)):
        if isinstance(values, dict):
            ids += _checked(f"{folder / name}: eos_token_id", values.get("eos_token_id"), vocabulary)
    return tuple(dict.fromkeys(ids))


def _read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _size(config: Any) -> int:
    size = config.get("vocab_size") if isinstance(config, dict) else None
    return size if isinstance(size, int) else 0


def _checked(field: str, value: Any, vocabulary: int) -> Iterator[int]:
    for token in [] if value is None else value if isinstance(value, list) else [value]:
        if type(token) is not int or not 0 <= token < vocabulary:
            raise CheckpointError(
                f"{field} is {repr(value)[:200]}, which must be a token id below {vocabulary}, or a list of them; "
                "correct it, or remove the field if the tokenizer's end token is enough"
            )
        yield token
