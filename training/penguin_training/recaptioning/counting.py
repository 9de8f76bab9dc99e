"""What an English caption says about the numbers of some nouns.

A small grammar of noun phrases and no parser: a phrase begins with a number or a determiner, or after a word that ends
the one before ("and", "on", punctuation), and has few words. Plurals and the words for numbers are inflect's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import inflect

_ENGLISH, _CLASSICAL = inflect.engine(), inflect.engine()
_CLASSICAL.classical(all=True)  # "cacti" and "persons"
_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|\w+(?:[-'’]\w+)*|[^\w\s]")
_LARGEST_IN_WORDS = 999
_MOST_MODIFIERS = 3


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ARTICLES = _words("a an another")
_DEFINITE = _words("the this that these those its his her their my your our all both each every")
_ENDS = _words(
    "and or but nor with without of in on at to from by near next beside behind between under over above below around "
    "into onto along against for as than like is are was were be been has have had do does can that which who while "
    "there here where when it they them he she not"
)
_ADDING = _words("another other others second third fourth additional further extra more remaining")
_INEXACT = _words("about almost approximately around least most nearly or roughly some than")
_UNITS = _words(
    "mm cm m km ml cl l g kg inch inches foot feet metre metres meter meters litre litres liter liters gram grams"
)
_ADJECTIVES = _words(
    "red green blue yellow orange purple violet pink brown black white grey gray cyan silver golden dark light big "
    "large small little tiny tall short long round square wooden metal plastic open closed empty full"
)


@dataclass(frozen=True)
class Noun:
    """The forms of a noun; some words, such as "sheep", are both."""

    singular: frozenset[str]
    plural: frozenset[str]

    @classmethod
    def of(cls, word: str) -> Noun:
        """Returns the forms of the noun that a word in lower case, singular or plural, belongs to."""
        alone = _ENGLISH.singular_noun(word) or ""
        plurals = {str(engine.plural_noun(word)) for engine in (_ENGLISH, _CLASSICAL)}
        return cls(frozenset({word, alone} - {""}), frozenset(plurals | ({word} if alone else set())))


@dataclass(frozen=True)
class Mention:
    """A noun phrase whose head is one of the nouns."""

    noun: str
    sentence: int
    plural: bool
    count: int | None = None  # Number that it states; articles state none
    definite: bool = False  # "the two cubes": it may refer to an earlier phrase
    adding: bool = False  # "another cube": what was mentioned before is not meant
    modifiers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Phrase:
    """A noun phrase whose head has not come yet."""

    number: int | None = None
    definite: bool = False
    modifiers: tuple[str, ...] = ()
    coordinated: tuple[_Phrase, ...] = field(default=())  # "one red" in "one red and two blue cubes"

    @property
    def adding(self) -> bool:
        return not _ADDING.isdisjoint(self.modifiers)

    def mention(self, noun: str, sentence: int, plural: bool) -> Mention:
        modifiers = frozenset(self.modifiers) - _ADDING
        return Mention(noun, sentence, plural, self.number, self.definite, self.adding, modifiers)


def words_of(text: str) -> list[str]:
    """Returns the words of a text in lower case, of compounds and possessives too, and its punctuation."""
    return [re.sub(r"['’]s$", "", token) for token in _TOKEN.findall(text.lower())]


def last_part(word: str) -> str:
    """Returns the noun in a compound such as "wine-glass"."""
    return word.rpartition("-")[2]


def mentions(caption: str, nouns: Mapping[str, Noun]) -> list[Mention]:
    """Returns where the caption mentions the nouns, in order, as heads of phrases: no cup in "two cup holders"."""
    found: list[Mention] = []
    phrase, sentence = _Phrase(), 0
    tokens = list(_numbers_read(words_of(caption)))
    for position, token in enumerate(tokens):
        previous = tokens[position - 1] if position else ""
        if isinstance(token, int):
            phrase = _counted(phrase, token, previous, tokens[position - 2] if position > 1 else "")
        elif token in _ARTICLES or token in _DEFINITE:
            joined = phrase.coordinated if previous in ("and", ",") else ()
            phrase = _Phrase(
                definite=token in _DEFINITE, modifiers=(token,) if token in _ADDING else (), coordinated=joined
            )
        elif token in _ENDS or not token[0].isalnum():
            sentence += token in (".", "!", "?", ";")
            phrase = _Phrase(coordinated=_waiting(phrase, token))
        elif isinstance(previous, int) and token in _UNITS:
            phrase = _Phrase()
        else:
            noun = _head(token, phrase, nouns)
            following = tokens[position + 1] if position + 1 < len(tokens) else ""
            if noun and not (isinstance(following, str) and _noun(following, nouns)):
                plural = last_part(token) in nouns[noun].plural
                every = [*phrase.coordinated, phrase]
                found += [part.mention(noun, sentence, plural) for part in every]
                phrase = _Phrase()
            elif _is_other_head(token, phrase) or len(phrase.modifiers) == _MOST_MODIFIERS:
                phrase = _Phrase()
            else:
                phrase = replace(phrase, modifiers=(*phrase.modifiers, token))
    return found


def _counted(phrase: _Phrase, number: int, previous: str | int, before: str | int) -> _Phrase:
    """Returns the phrase that begins with a number; its words so far are determiners: "the other two"."""
    inexact = previous in _INEXACT or (previous == "to" and isinstance(before, int)) or phrase.number == 0
    adding = tuple(word for word in phrase.modifiers if word in _ADDING)
    definite = phrase.definite and not adding
    return _Phrase(None if inexact else number, definite, adding, phrase.coordinated)


def _waiting(phrase: _Phrase, end: str) -> tuple[_Phrase, ...]:
    """Returns the phrases without a head that share that of the next one: "one red" before "and two blue cubes"."""
    if end not in ("and", ","):
        return ()
    begun = phrase.number is not None or phrase.modifiers or phrase.definite
    if not begun:
        return phrase.coordinated
    shared = phrase.number and phrase.modifiers and _ADJECTIVES.issuperset(phrase.modifiers)
    return (*phrase.coordinated, phrase) if shared else ()


def _noun(word: str, nouns: Mapping[str, Noun]) -> str | None:
    part = last_part(word)
    return next((name for name, noun in nouns.items() if part in noun.singular or part in noun.plural), None)


def _head(word: str, phrase: _Phrase, nouns: Mapping[str, Noun]) -> str | None:
    """Returns the noun of a word that can be the head: after numbers above one, a plural; after one, none."""
    noun = _noun(word, nouns)
    if noun is None or phrase.number in (None, 0):
        return noun
    forms = nouns[noun].singular if phrase.number == 1 else nouns[noun].plural
    return noun if last_part(word) in forms else None


def _is_other_head(word: str, phrase: _Phrase) -> bool:
    """Returns whether a number above one counts this word: the first plural, because modifiers are singular."""
    return (phrase.number or 0) > 1 and bool(_ENGLISH.singular_noun(last_part(word)))


def _numbers_read(words: list[str]) -> Iterator[str | int]:
    """Yields words, with numbers in digits and words ("twenty-one", "one hundred and two") as integers."""
    spelled, longest = _spelled()
    position = 0
    while position < len(words):
        for length in range(longest, 0, -1):
            key = " ".join(words[position : position + length]).replace("-", " ")
            if key in spelled or (length == 1 and key.isdecimal()):
                yield spelled[key] if key in spelled else int(key)
                position += length
                break
        else:
            yield words[position]
            position += 1


@cache
def _spelled() -> tuple[dict[str, int], int]:
    """Returns the numbers by their words, and the number of words of the longest."""
    spelled = {"no": 0}
    for number in range(_LARGEST_IN_WORDS + 1):
        for joint in ("", "and"):
            words = str(_ENGLISH.number_to_words(number, andword=joint))
            spelled[words.replace("-", " ")] = number
    return spelled, max(len(words.split()) for words in spelled)
