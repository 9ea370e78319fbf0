"""Tokens and texts: vocabularies both ways, and answers cut where they must be, however they arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.kernel.engine.transcript import ByteVocabulary, TextVocabulary, Transcript
from salver.words.errors import InvalidInput

FEW = st.text("abü€", max_size=30)


def said(vocabulary, tokens, stops=()):
    transcript = Transcript(vocabulary, stops)
    pieces = [transcript.add(token) for token in tokens]
    return [*pieces, transcript.rest()], transcript.is_stopped


@given(FEW, st.lists(st.text("abü€", min_size=1, max_size=3), max_size=3))
def test_an_answer_is_the_whole_text_up_to_the_first_stop_text(text, stops):
    pieces, is_stopped = said(ByteVocabulary(), text.encode(), tuple(stops))
    # The stop text that is complete first counts; of several, the one that begins first.
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    expected = text
    if ends:
        seen = text[: min(ends)]
        expected = seen[: min(seen.find(stop) for stop in stops if stop in seen)]
    assert ("".join(pieces), is_stopped) == (expected, bool(ends))


@given(FEW)
def test_without_stop_texts_each_character_comes_with_its_last_byte(text):
    pieces, _ = said(ByteVocabulary(), text.encode())
    assert [piece for piece in pieces if piece] == list(text)


def test_bytes_that_are_no_text_are_replaced_and_a_half_character_at_the_end_as_well():
    pieces, _ = said(ByteVocabulary(), b"a\xffb\xc3")
    assert "".join(pieces) == "a\ufffdb\ufffd"


@given(st.lists(st.sampled_from(["a", "b", "ab", "ba", "ü", "aba"]), max_size=20).map("".join))
def test_a_text_in_tokens_spells_the_text(text):
    vocabulary = TextVocabulary(["a", "b", "ab", "ü", "aba"])
    tokens = vocabulary.encode(text, most=len(text))
    assert b"".join(map(vocabulary.spell, tokens)).decode() == text


def test_the_longest_listed_text_is_taken():
    assert TextVocabulary(["a", "b", "aa"]).encode("aaab", most=3) == [2, 0, 1]


@pytest.mark.parametrize("vocabulary", [ByteVocabulary(), TextVocabulary(["a", "aaa"])])
def test_a_prompt_has_at_most_so_many_tokens(vocabulary):
    assert len(vocabulary.encode("aa", most=2)) == 2
    with pytest.raises(InvalidInput, match="more than the 2 tokens"):
        vocabulary.encode("a" * 8, most=2)
