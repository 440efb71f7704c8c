from tunemake.chat_templates import conversation
from tunemake.data_statistics import MOST, measure


def samples(*turns):
    return [{"messages": conversation([turn])} for turn in turns]


def test_scripts_are_those_of_most_letters():
    told = samples(
        ("你是谁？", "我是 AI。"), ("Кто ты?", "Я помощник."), ("こんにちは", "はい、どうも"), ("42", "…"), ("a", "b")
    )
    assert measure(told, 5, [], None).scripts == {"Han": 1, "Cyrillic": 1, "Kana": 1, "no letters": 1, "Latin": 1}


def test_what_is_repeated():
    found = measure(samples(("a", "x"), ("b", "x"), ("a", "x"), ("c", "y")), 4, [], None)
    assert (found.samples, found.unique, found.unique_answers, found.commonest) == (4, 3, 2, ("x", 2))


def test_markup_is_counted_by_sample_longest_word_first():
    found = measure(samples(("<s><s>", "."), (".", "<s>>"), ("none", "here")), 3, ["<s>", "<s>>", "\n", " "], None)
    assert found.marked == {"<s>": (1, 1), "<s>>": (1, 2)}


def test_of_much_data_a_part_is_measured():
    count = 2 * MOST + 1
    found = measure((samples((str(n), "x"))[0] for n in range(count)), count, [], None)
    assert found.samples == count
    assert found.measured == -(-count // 3)
    assert found.as_json()["measured"] == found.measured
