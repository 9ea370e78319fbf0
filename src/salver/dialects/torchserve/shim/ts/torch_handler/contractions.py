"""Contractions in English, as TorchServe's text classifiers expand them.

Most are a pronoun or an auxiliary with an ending, so the map is generated from these; it equals TorchServe's
entry by entry, including its error ``he'll've``, since vocabularies of models depend on it.
"""

from collections.abc import Iterator, Mapping
from typing import Final

_ENDINGS: Final[Mapping[str, str]] = {
    "'d": " would",
    "'d've": " would have",
    "'ll": " will",
    "'ll've": " will have",
    "'m": " am",
    "'re": " are",
    "'s": " is",
    "'ve": " have",
}
#: What takes which of them.
_STEMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("I", "i"), "'d 'd've 'll 'll've 'm 've"),
    **dict.fromkeys(("we", "they", "you"), "'d 'd've 'll 'll've 're 've"),
    **dict.fromkeys(("he", "she", "it"), "'d 'd've 'll 'll've 's"),
    "that": "'d 'd've 's",
    "there": "'d 'd've 's",
    "what": "'ll 'll've 're 's 've",
    "who": "'ll 'll've 's 've",
    "how": "'ll 's",
    "when": "'s 've",
    "where": "'s 've",
    "why": "'s 've",
    "could": "'ve",
    "might": "'ve",
    "must": "'ve",
    "should": "'ve",
    "so": "'ve",
    "to": "'ve",
    "will": "'ve",
    "would": "'ve",
    "y'all": "'d 'd've 're 've",
}
#: Verbs with ``n't`` and those that take ``n't've`` as well.
_NOT: Final = "are could did does do had has have is might must need ought should was were would may"
_NOT_HAVE: Final = "could had might must need ought should would"
_ODD: Final[Mapping[str, str]] = {
    "ain't": "is not",
    "can't": "cannot",
    "can't've": "cannot have",
    "'cause": "because",
    "he'll've": "he he will have",
    "how'd": "how did",
    "how'd'y": "how do you",
    "let's": "let us",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "sha'n't": "shall not",
    "shan't": "shall not",
    "shan't've": "shall not have",
    "so's": "so as",
    "where'd": "where did",
    "won't": "will not",
    "won't've": "will not have",
    "y'all": "you all",
}


def _regular() -> Iterator[tuple[str, str]]:
    for stem, endings in _STEMS.items():
        words = "you all" if stem == "y'all" else stem
        yield from ((stem + ending, words + _ENDINGS[ending]) for ending in endings.split())
    yield from ((f"{verb}n't", f"{verb} not") for verb in _NOT.split())
    yield from ((f"{verb}n't've", f"{verb} not have") for verb in _NOT_HAVE.split())


#: Sorted, so that of two the shorter is tried first where one begins the other, as there.
CONTRACTION_MAP: Final[Mapping[str, str]] = dict(sorted({**dict(_regular()), **_ODD}.items()))
