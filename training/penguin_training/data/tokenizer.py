"""A byte-level BPE tokenizer trained on a stage's own texts, in the layout of the released ones.

Words are cut as Qwen's tokenizers do, but digits stay together: a coordinate is one token, which a small model looks up
and says at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from penguin_models.chat import IMAGE, TURN_END, TURN_START
from penguin_models.errors import PenguinError, SettingError
from penguin_training.data.annotations import Annotation, AnnotationFile
from penguin_training.data.samples import END_OF_TEXT

SPECIAL = (TURN_END, END_OF_TEXT, TURN_START, IMAGE)
WORDS = ("<think>", "</think>")
"""Tokens of their own that are part of the text."""
_BYTES = 256
_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,4}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(files: Iterable[AnnotationFile], vocabulary: int) -> Tokenizer:
    """Trains a tokenizer on the texts of annotation files; samples that cannot be read are passed over.

    Args:
        files: their conversations and texts are learnt from.
        vocabulary: tokens, special ones included.

    Raises:
        SettingError: the vocabulary is too small for the bytes and the special tokens, or larger than the texts give.
    """
    least = _BYTES + len(SPECIAL) + len(WORDS)
    if vocabulary < least:
        raise SettingError(f"a vocabulary of {vocabulary} is too small: {least} tokens are needed before any word")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(WORDS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(files), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=True) for token in WORDS])
    if (size := tokenizer.get_vocab_size()) != vocabulary:
        raise SettingError(f"the texts give {size} tokens, {vocabulary} were asked for; give more texts or ask less")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json and the small files beside it that transformers reads.

    Raises:
        SettingError: the folder cannot be written.
    """
    added = {
        str(number): {
            "content": token.content,
            "lstrip": False,
            "normalized": token.normalized,
            "rstrip": False,
            "single_word": False,
            "special": token.special,
        }
        for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    config = {
        "added_tokens_decoder": added,
        "additional_special_tokens": [TURN_START, TURN_END],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",  # Qwen2Tokenizer would cut digits apart
        "unk_token": None,
    }
    special = {"additional_special_tokens": [TURN_START, TURN_END], "eos_token": TURN_END, "pad_token": END_OF_TEXT}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    except OSError as err:
        raise SettingError(f"{folder} cannot be written: {err.strerror}") from err


def _texts(files: Iterable[AnnotationFile]) -> Iterator[str]:
    for file in files:
        for row in range(len(file)):
            try:
                yield from _pieces(file[row])
            except PenguinError:
                continue  # the length index names it


def _pieces(annotation: Annotation) -> Iterator[str]:
    """Texts of a sample without its special tokens, which are no words."""
    if annotation.text is not None:
        yield annotation.text
    for message in annotation.messages or ():
        content = message["content"]
        if isinstance(content, str):
            yield content
            continue
        yield from (part["text"] for part in content if part["type"] == "text")
    if annotation.messages:
        yield from ("user\n", "assistant\n", "\n\n")
