"""Scores answers in words: text, numbers, multiple choice, and statements that something is absent.

The functions take the answer and the accepted texts, and know nothing of bags or question files.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence

from rapidfuzz.distance import Levenshtein

ANLS_THRESHOLD = 0.5
_UP_TO_20 = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_DIGITS = {word: str(number) for number, word in enumerate(_UP_TO_20)}
_WORDS = {word: number for number, word in enumerate(_UP_TO_20)} | {
    word: 10 * number for number, word in enumerate(_TENS, start=2)
}
_ARTICLES = frozenset(("a", "an", "the"))
_FIGURES = r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?"
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[-\s](?:{'|'.join(_UP_TO_20[1:10])}))?|{'|'.join(_UP_TO_20[:20])})"
_IN_WORDS = rf"(?:(?:{_BELOW_100}|an?)\s)?hundred(?:\s(?:and\s)?{_BELOW_100})?|{_BELOW_100}"
_NUMBER = re.compile(rf"(?P<figures>{_FIGURES})|\b(?:{_IN_WORDS})\b", re.IGNORECASE)
_LETTER_ENDS = r"(?![-'])(?!(?<=[AaIi])\s+(?!(?:because|since|is|or|and|nor)\b)(?:[a-z]|[A-Z][\w-]))"
"""Follows the letter of an option: rejects parts of words, the article "a", and the pronoun "I" before a verb."""
_NOTHING = re.compile(r"\b(?:no|none|nothing)\b", re.IGNORECASE)
_PLACE = r"(?:on|in|at|under|behind|near|inside|among|next to|left of|right of)"
_IS_NOT = r"(?:(?:is|are|was|were) not|(?:isn|aren|wasn|weren)'t)"
_DENIAL = re.compile(
    r"^no\b|\bnone\b|\bnothing\b(?! (?:but|else|other)\b)|\bnowhere\b|\bnever\b|\bno (?:such|longer)\b"
    r"|\bthere(?: (?:is|are|was|were)|'s) (?:no|not|neither)\b|\bthere (?:isn|aren|wasn|weren)'t\b"
    r"|\bnot (?:there|here|present|visible|found|in (?:the|this) (?:scene|picture|image|view))\b"
    r"|\b(?:can(?:not| not|'t)|(?:could|do|did)(?: not|n't)) (?:see|find)\b(?! (?:its|their)\b)"
    r"|\b(?:see|find|found) no\b"
    rf"|\b{_IS_NOT} (?:there|here|present|visible|any|anywhere)\b"
    rf"|\b{_IS_NOT} {_PLACE}\b(?!.*\b(?:but|instead|rather|it is|it's|they are|they're)\b)"
    r"|\b(?:is|are|was|were) (?:missing(?! (?:an?|its|the|their)\b)|absent|gone)\b",
    re.IGNORECASE | re.DOTALL,
)
_NO_MORE_THAN = r"(?!(?:no|not|none|nothing|never|neither|only|just|that)\b)"
_AFFIRMATION = re.compile(
    rf"^yes\b|\bthere(?: (?:is|are|was|were)|'s) {_NO_MORE_THAN}|\bi (?:can )?(?:see|find|found) {_NO_MORE_THAN}"
    rf"|\b(?:is|are|was|were) (?:{_PLACE}|there|here|visible|present)\b",
    re.IGNORECASE,
)


def exact(answer: str, accepted: Sequence[str]) -> float:
    """Returns 1 if the answer equals an accepted text, except for surrounding white space (exact match, SQuAD v1.1)."""
    return float(answer.strip() in {text.strip() for text in accepted})


def normalised(answer: str, accepted: Sequence[str]) -> float:
    """Returns 1 if the answer equals an accepted text after `normalise`."""
    return float(normalise(answer) in {normalise(text) for text in accepted})


def normalise(text: str) -> str:
    """Returns text in lower case without punctuation and articles, with single spaces and number words as digits.

    The rule of SQuAD v1.1 (Rajpurkar et al. 2016, arXiv:1606.05250) with the number words of VQA (Antol et al. 2015,
    arXiv:1505.00468).
    """
    text = re.sub(r"[^\w\s.\-/]", "", text.lower())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)  # keeps decimal points
    text = re.sub(r"(?<=\w)[-/]|[-/](?!\d)", " ", text)  # keeps minus signs
    return " ".join(_DIGITS.get(word, word) for word in text.split() if word not in _ARTICLES)


def contains(answer: str, accepted: Sequence[str]) -> float:
    """Returns 1 if the answer contains an accepted text, ignoring case (OCRBench, Liu et al., arXiv:2305.07895)."""
    answer = _one_line(answer)
    return float(any(_one_line(text) in answer for text in accepted))


def anls(answer: str, accepted: Sequence[str]) -> float:
    """Returns the normalised Levenshtein similarity to the closest accepted text, or 0 if it is not above one half.

    The similarity is 1 - edit distance / longer length, in lower case with single spaces; its mean over questions is
    ANLS (Biten et al. 2019, arXiv:1905.13648), the metric of DocVQA.
    """
    answer = _one_line(answer)
    best = max(Levenshtein.normalized_similarity(answer, _one_line(text)) for text in accepted)
    return best if best > ANLS_THRESHOLD else 0.0


def find_number(answer: str) -> float | None:
    """Returns the first number in an answer, in figures ("-1,200.5", "1.5e3") or in words up to 999 ("twenty-one").

    Without a number, "no", "none" and "nothing" are 0, and any other answer is None.
    """
    match = _NUMBER.search(answer)
    if match is None:
        return 0.0 if _NOTHING.search(answer) else None
    if match["figures"]:
        return float(match[0].replace(",", ""))
    hundreds, hundred, rest = match[0].lower().rpartition("hundred")
    return float(100 * (_sum_words(hundreds) or 1) * bool(hundred) + _sum_words(rest))


def _sum_words(words: str) -> int:
    return sum(_WORDS.get(word, 0) for word in re.split(r"[-\s]", words))


def find_choice(answer: str, options: Sequence[str]) -> str | None:
    """Returns the letter of the option that an answer chooses ("A" is the first); None if ambiguous, as in "B or C".

    Tried in order: a letter that is the whole answer or starts it, as in "B." or "(b)"; a letter after "answer is"; the
    only letter in parentheses; the only option whose text equals the answer, or is contained in it; the only capital
    letter that stands alone. Benchmark harnesses that guess if nothing is found would score chance level; here it is
    wrong.
    """
    letters = string.ascii_uppercase[: len(options)]
    text = answer.strip()
    one = rf"[{letters}]"
    alone = rf"(?!\)?\s*(?:,|/|\b(?:or|and|nor)\b)\s*(?:or\s|and\s)?\(?{one}\b{_LETTER_ENDS})"
    for pattern, flags in (
        (rf"\W*({one})\W*$", re.IGNORECASE),
        (rf"\(?({one}){alone}(?:[):]|\.(?!\w))", re.IGNORECASE),
        (rf"({one}){alone},", 0),
    ):
        if match := re.match(pattern, text, flags):
            return match[1].upper()
    stated = rf"\b(?:answer|option|choice)(?:\s+is|:)?\s*\(?({one})\b{_LETTER_ENDS}{alone}"
    if match := re.search(stated, text, re.IGNORECASE):
        return match[1].upper()
    if found := set(re.findall(rf"(?<!\w)\(({one})\)", text.upper())):
        return _only(found)
    return _option_named(text, options, letters) or _only(re.findall(rf"\b({one})\b{_LETTER_ENDS}", text))


def _option_named(text: str, options: Sequence[str], letters: str) -> str | None:
    answer = normalise(text)
    by_letter = dict(zip(letters, map(normalise, options), strict=True))
    equal = [letter for letter, option in by_letter.items() if option == answer]
    contained = [letter for letter, option in by_letter.items() if option and f" {option} " in f" {answer} "]
    return _only(equal) or _only(contained)


def _only(letters: Iterable[str]) -> str | None:
    distinct = set(letters)
    return distinct.pop() if len(distinct) == 1 else None


def denies(answer: str) -> bool:
    """Returns whether an answer says that what was asked for is absent.

    The first statement counts: an answer that first affirms ("Yes", "I see a mug") does not deny, whatever it says is
    missing afterwards.
    """
    text = answer.strip().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    denial, affirmation = _DENIAL.search(text), _AFFIRMATION.search(text)
    return denial is not None and (affirmation is None or denial.start() <= affirmation.start())


def _one_line(text: str) -> str:
    return " ".join(text.lower().split())


TEXT_METRICS = {"exact": exact, "normalised": normalised, "contains": contains, "anls": anls}
"""Metrics that a question file may name for an expected text."""
