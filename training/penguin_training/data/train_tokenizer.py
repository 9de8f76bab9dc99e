"""Trains a byte-level BPE tokenizer on a stage's own texts, in the layout of the released ones.

Words are split as by Qwen's tokenizers, but digits stay together: a coordinate is one token, which a small model looks
up and says at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from penguin_models.atomic_write import atomic_files
from penguin_models.chat import IMAGE, TURN_END, TURN_START
from penguin_models.errors import PenguinError, SettingError
from penguin_training.data.annotations import Annotation, AnnotationFile
from penguin_training.data.sample_reader import END_OF_TEXT

SPECIAL = (TURN_END, END_OF_TEXT, TURN_START, IMAGE)
WORDS = ("<think>", "</think>")  # Tokens of their own that are part of the text
_BYTES = 256
_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,4}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(files: Iterable[AnnotationFile], vocabulary: int) -> Tokenizer:
    """Trains a tokenizer on the conversations and texts of annotation files; skips samples that cannot be read."""
    least = _BYTES + len(SPECIAL) + len(WORDS)
    if vocabulary < least:
        raise SettingError(f"a vocabulary of {vocabulary} is too small: bytes and special tokens already take {least}")
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
        raise SettingError(f"the texts give only {size} tokens of {vocabulary}; add texts or lower the vocabulary")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json and the small files that every version of transformers reads with it.

    Raises WriteError and changes nothing if the folder cannot be written.
    """
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    added = {
        str(number): {flag: getattr(token, flag) for flag in flags}
        for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    special = {"additional_special_tokens": [TURN_START, TURN_END], "eos_token": TURN_END, "pad_token": END_OF_TEXT}
    config = {
        "added_tokens_decoder": added,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",  # Qwen2Tokenizer would split digits
        "unk_token": None,
    }
    with atomic_files(folder) as staging:
        tokenizer.save(str(staging / "tokenizer.json"))
        for name, content in (("tokenizer_config", config | special), ("special_tokens_map", special)):
            (staging / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _texts(files: Iterable[AnnotationFile]) -> Iterator[str]:
    for file in files:
        for row in range(len(file)):
            try:
                yield from _sample_texts(file[row])
            except PenguinError:
                continue  # `penguin-vl prepare lengths` reports it


def _sample_texts(annotation: Annotation) -> Iterator[str]:
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
