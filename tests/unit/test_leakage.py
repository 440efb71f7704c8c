"""What leaks: the same but for case and punctuation, or nearly the same, in any script; with what was not looked at."""

import pytest

from tunemake.chat_templates import conversation
from tunemake.faults import Fault
from tunemake.leakage import MOST_PAIRS, NEAR, Pair, Unseen, leakage, similarity
from tunemake.leakage_findings import leakage_findings
from tunemake.samples import folded


def samples(*turns, system=None):
    return [{"messages": conversation([turn], system)} for turn in turns]


def found(train, held_out=(), most=1000, **probes):
    return leakage(train, len(train), list(held_out), probes, most)


TALK = [
    ("How long does a broken wrist take to heal?", "Six weeks, as a rule."),
    ("手指被纸划伤了怎么处理？", "用清水冲洗。"),
]


def test_a_prompt_that_is_trained_on_but_for_case_and_punctuation():
    told = found(samples(*TALK), p=["how long does a BROKEN wrist take to heal", "手指被纸划伤了，怎么处理"]).prompts[
        "p"
    ]
    assert (told.texts, told.exact, told.near) == (2, 2, 0)
    assert told.examples[0] == Pair("how long does a BROKEN wrist take to heal", TALK[0][0], 1.0)


@pytest.mark.parametrize(
    ("asked", "like"),
    [("How long does my broken wrist take to heal?", TALK[0][0]), ("手指被纸划伤了该怎么处理呢？", None)],
)
def test_a_prompt_that_is_nearly_trained_on(asked, like):
    told = found(samples(*TALK), p=[asked]).prompts["p"]
    assert told.near == (like is not None)
    assert [pair.like for pair in told.examples] == ([like] if like else [])
    assert all(NEAR <= pair.similarity < 1 for pair in told.examples)


def test_chinese_texts_are_near_by_their_characters():
    asked = "手指被纸划伤了以后应该怎么处理才不会感染发炎呢"
    told = found(samples((asked + "？", "用清水冲洗。")), p=["请问" + asked]).prompts["p"]
    assert (told.exact, told.near) == (0, 1)


def test_similarity_is_that_of_trigrams():
    assert similarity("abcd", "abcde") == 2 / 3  # abc, bcd of abc, bcd, cde
    assert similarity("ab", "abc") == 0
    assert similarity("ab", "ab") == 1


def test_held_out_samples_are_held_against_training_ones_without_system_messages():
    held = samples(TALK[0], ("Something", "else altogether"), system="Be kind.")
    told = found(samples(("how long does a broken wrist take to heal", "six weeks as a rule"), TALK[1]), held).held_out
    assert (told.texts, told.exact, told.near, told.others, told.compared) == (2, 1, 0, 2, 2)


def test_prompts_are_looked_for_in_held_out_samples_too():
    told = found(samples(TALK[1]), samples(TALK[0]), p=[TALK[0][0]])
    assert (told.prompts["p"].exact, told.prompts_held_out["p"].exact) == (0, 1)


def test_what_folds_to_nothing_is_like_nothing():
    told = found(samples(("?!", "…")), samples(("…", "?")), p=["!!"])
    assert (told.held_out.texts, told.prompts["p"].texts) == (0, 0)


def test_prompts_of_two_probes_are_told_of_each():
    told = found(samples(*TALK), one=[TALK[0][0]], two=[TALK[0][0], "Why?"]).prompts
    assert {name: (one.texts, one.exact) for name, one in told.items()} == {"one": (1, 1), "two": (2, 1)}


def test_of_much_data_every_so_many_th_is_compared_and_same_ones_are_found_in_all():
    train = samples(*((f"Question number {number}", f"{number}") for number in range(25)))
    near = samples(("How long does a broken wrist take to heal", "Six weeks, as a rule"))
    told = found([*train, *near], samples(*TALK, ("Question number 7", "7")), most=10, p=["question number 11"])
    assert (told.prompts["p"].exact, told.prompts["p"].compared, told.prompts["p"].others) == (1, 9, 26)
    assert told.held_out.exact == 2
    few = found(train, samples(*((f"held {number}", "out") for number in range(15))), most=10)
    assert (few.held_out.texts, few.held_out.left_out) == (8, 7)


def test_pairs_that_were_not_measured_are_counted():
    text = "how long does a broken wrist take to heal, and what can be done"
    crowd = [f"{text} {letter}" for letter in "abcd"]
    unseen = Unseen(crowd, others=MOST_PAIRS)  # one pair for each that passes by
    unseen.pass_by([[text]], slice(None))
    told = unseen.overlap(crowd)
    assert (told.near, told.unmeasured) == (1, 3)


def test_the_likeliest_pair_is_the_one_that_is_measured():
    text = "how long does a broken wrist take to heal, and what can be done meanwhile"
    crowd = [text[:-9], text[4:], text + " by oneself", text + "?!", text + " now"]
    unseen = Unseen([one + "e" for one in crowd], others=MOST_PAIRS)
    unseen.pass_by([[text]], slice(None))
    best = max(similarity(folded(one + "e"), folded(text)) for one in crowd)
    assert unseen.overlap([one + "e" for one in crowd]).examples[0].similarity == pytest.approx(best, abs=0.001)


def test_findings_name_pairs_and_what_to_change():
    train = samples(*TALK, *((f"{number}?", f"{number}!") for number in range(5)))
    held = samples((TALK[0][0].upper(), TALK[0][1]))
    told = {
        one.code: one for one in leakage_findings(found(train, held, p=["How long does my broken wrist take to heal?"]))
    }
    assert set(told) == {"held_out_trained", "prompts_near", "prompts_held_out"}
    assert told["held_out_trained"].severity == "warning"
    assert told["prompts_near"].fault == Fault(
        "evaluate.probe p", "nearly trained on: 1 of 1 prompts (similarity 0.8 and more)",
        next_step='"How long does my broken wrist take to h…" is like "How long does a broken wrist take to he…"; '
        "ask in other words, or the score tells what was learnt by heart",
    )  # fmt: skip
