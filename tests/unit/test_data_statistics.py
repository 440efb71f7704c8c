from array import array

import pytest

from tunemake.chat_templates import conversation
from tunemake.data_statistics import MOST, Statistics, Tokens, measure


def samples(*turns):
    return [{"messages": conversation([turn])} for turn in turns]


def test_scripts_are_those_of_most_letters():
    told = samples(
        ("你是谁？", "我是 AI。"), ("Кто ты?", "Я помощник."), ("こんにちは", "はい、どうも"), ("42", "…"), ("a", "b")
    )
    assert measure(told, 5, [], None).scripts == {"Han": 1, "Cyrillic": 1, "Kana": 1, "no letters": 1, "Latin": 1}


def test_what_is_repeated():
    found = measure(samples(("a", "x"), ("b", "x"), ("a", "x"), ("c", "y")), 4, [], None)
    assert found.commonest_answer == ("x", 3)
    assert (found.samples, found.unique, found.unique_answers, found.commonest) == (4, 3, 2, ("x", 2))


def test_turns_are_counted_by_role_and_by_sample_without_system_messages():
    told = [*samples(("a", "b")), {"messages": conversation([("a", "b"), ("c", "d")], "Be kind.")}]
    found = measure(told, 2, [], None)
    assert found.turns == {"user": 3, "assistant": 3, "system": 1}
    assert found.as_json()["turns_of_a_sample"] == {"2": 1, "4": 1}


def test_languages_are_counted():
    told = samples(
        ("Where do you live?", "In a house by the sea."), ("你住在哪里？", "我住在海边的房子里。"), ("1", "2")
    )
    assert measure(told, 3, [], None).languages == {"en": 1, "zh": 1, "und": 1}


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        ([1, 1, 20], {"width": 1, "samples": [2, *[0] * 18, 1]}),
        ([1, 2, 3, 21], {"width": 2, "samples": [2, 1, *[0] * 8, 1]}),
        ([0], {"width": 1, "samples": [1]}), ([], {"width": 1, "samples": []}),
    ],
)  # fmt: skip
def test_the_histogram_has_bins_of_one_width(lengths, told):
    assert Tokens(200, array("Q", lengths)).histogram() == told


def test_markup_is_counted_by_sample_longest_word_first():
    found = measure(samples(("<s><s>", "."), (".", "<s>>"), ("none", "here")), 3, ["<s>", "<s>>", "\n", " "], None)
    assert found.marked == {"<s>": (1, 1), "<s>>": (1, 2)}


def test_tokens_of_all_rows_are_told_by_those_that_were_measured():
    assert Statistics(12, 4, tokens=Tokens(8, rows=array("Q", [3, 5, 4]))).row_tokens == 36
    assert Statistics(12, 4).row_tokens == 0


def test_of_much_data_a_part_is_measured():
    count = 2 * MOST + 1
    found = measure((samples((str(n), "x"))[0] for n in range(count)), count, [], None)
    assert found.samples == count
    assert found.measured == -(-count // 3)
    assert found.as_json()["measured"] == found.measured
