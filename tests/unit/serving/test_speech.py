"""Text comes in whole characters, and neither a stop word nor a part of one is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from tunemake.serving.speech import Speech


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)  # a token is a byte
    return AutoTokenizer.from_pretrained(folder)


def parts(tokenizer, text, stops=()):
    speech = Speech(tokenizer, stops)
    told = []
    for token in tokenizer.encode(text, add_special_tokens=False):
        told.append(speech.add(token))
        if speech.stopped:
            break
    return [*told, speech.end()], speech.stopped


@given(st.text())
def test_the_parts_are_the_text(tokenizer, text):
    text = text.replace("\ufffd", "")
    assert "".join(parts(tokenizer, text)[0]) == text


def test_a_character_comes_whole(tokenizer):
    assert [part for part in parts(tokenizer, "é汉😀")[0] if part] == ["é", "汉", "😀"]


def test_half_a_character_at_the_end_is_not_told(tokenizer):
    speech = Speech(tokenizer, ())
    first, second, *_ = tokenizer.encode("汉", add_special_tokens=False)
    assert [speech.add(first), speech.add(second), speech.end()] == ["", "", ""]


def test_bytes_that_are_no_character_do_not_hold_up_what_follows(tokenizer):
    speech = Speech(tokenizer, ())
    half = tokenizer.encode("汉", add_special_tokens=False)[0]
    told = "".join(speech.add(token) for token in [half, half, half, half, half])
    assert told + speech.end() == "\ufffd" * 4


def test_a_stop_word_ends_the_text_and_is_no_part_of_it(tokenizer):
    told, stopped = parts(tokenizer, "one END two", ("END", "two"))
    assert (told, stopped) == (["o", "n", "e", " ", "", "", "", ""], True)


def test_what_only_begins_like_a_stop_word_is_told_as_soon_as_that_is_known(tokenizer):
    told, stopped = parts(tokenizer, "EN ENE", ("END",))
    assert (told, stopped) == (["", "", "EN ", "", "", "EN", "E"], False)


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3))
def test_the_text_ends_before_the_first_stop_word(tokenizer, text, stops):
    told, stopped = parts(tokenizer, text, stops)
    # Which comes first is known when the first of them is whole.
    ends = [index for index in range(len(text) + 1) if any(text[:index].endswith(stop) for stop in stops)]
    seen = text[: ends[0]] if ends else text
    longest = max((len(stop) for stop in stops if seen.endswith(stop)), default=0) if ends else 0
    assert ("".join(told), stopped) == (seen[: len(seen) - longest], bool(ends))
