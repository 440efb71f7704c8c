"""What training data will lead to, told before the training; the tutorial's own data above all."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from tunemake.chat_templates import conversation
from tunemake.contracts import Context
from tunemake.data_figures import figures
from tunemake.data_statistics import measure
from tunemake.data_verdict import data_verdict
from tunemake_builtins.self_cognition import SelfCognition

REPOSITORY = Path(__file__).parents[2]
TRAINING = {"batch_size": 1, "accumulation": 1, "epochs": 2}
TALK = [(f"What is {number} and one?", f"It is {number + 1}.") for number in range(40)]


def samples(turns):
    return [{"messages": conversation([turn])} for turn in turns]


def told(turns, held=(("Why?", "So."),), words=(), training=TRAINING, **probes):
    train = samples(turns)
    return figures(
        lambda: train, len(train), samples(held), probes, texts=None, words=words, training=training, packing=False
    )


def test_sound_data():
    verdict = told(TALK, p=["How are you?"]).verdict
    assert verdict.grade == "sound"
    assert verdict.text == (
        "Sound, as far as counts can tell: 40 unlike samples with 40 unlike answers, 2 passes over them; "
        "tokens are not counted; nothing is read as markup, nothing leaked."
    )


def test_the_tutorials_data_is_told_to_overfit():
    declared = tomllib.loads((REPOSITORY / "examples/tutorial/project.toml").read_text("utf-8"))
    parameters = declared["datasets"]["identity"]["parameters"]
    made = list(SelfCognition().samples(parameters, Context(root=REPOSITORY, seed=0)))
    told = figures(
        lambda: made, len(made), [], {}, texts=None, words=[], packing=False,
        training={"batch_size": 1, "accumulation": 16, **declared["train"]},
    ).verdict  # fmt: skip
    assert told.grade == "overfits"
    assert told.text.startswith(
        "Badly overfitting: one question with one answer, 10,001 times, and 2 passes show it 20,002 times. "
    )
    assert (
        'the model will say "我是小明的小助手，内在是上海AI实验室书生·浦语的1.8B大模型哦" to whatever it is asked'
        in told.text
    )
    assert "Add other data, such as the base model's own answers (the generator replay)" in told.text
    assert told.text.endswith("Nothing is held out: no loss on unseen samples will show what it learns by heart.")


@pytest.mark.parametrize(
    ("turns", "training", "said"),
    [
        ([(f"{n}?", f"{n % 2}") for n in range(40)], TRAINING, "40 samples have only 2 unlike answers: the model will"),
        (
            [*TALK[:9], *((f"{n}?", "Yes.") for n in range(11))],
            TRAINING,
            'The answer "Yes." is that of 55% of the samples',
        ),
        (TALK, {**TRAINING, "epochs": 11}, "Each unlike sample is shown about 11 times and will be learnt by heart"),
        ([*TALK, ("Go <s> on", "!")], TRAINING, "Texts hold markup (<s>), which the model reads as"),
        ([*TALK, ("Why", "so")], TRAINING, "1 of 1 held-out samples are trained on, the same or nearly: "),
        ([*TALK, ("Who made you?", "x")], TRAINING, "Prompts of p are trained on, the same or nearly: "),
    ],
)
def test_what_is_to_be_looked_at_first(turns, training, said):
    verdict = told(turns, words=["<s>"], training=training, p=["who made you"]).verdict
    assert verdict.grade == "doubtful"
    assert verdict.text.startswith(f"To be looked at first: {said}")


def test_one_answer_to_many_questions():
    verdict = told([(f"{number}?", "No.") for number in range(9)]).verdict
    assert verdict.grade == "overfits"
    assert verdict.text.startswith(
        "Badly overfitting: one answer to all questions, 9 times, and 2 passes show it 18 times. "
    )


def test_nothing_in_a_sample_steers_the_terminal():
    verdict = told([(f"{number}?", "\x1b[2JNo.") for number in range(9)]).verdict
    assert "\\x1b[2JNo." in str(verdict)
    assert "\x1b" not in str(verdict)


def test_few_near_held_out_samples_are_told_and_no_doubt():
    text = "how long does a broken wrist take to heal"
    verdict = told([*TALK, (f"{text}?", "Long.")], held=[(f"{text} now?", "Long."), ("Why?", "So.")]).verdict
    assert verdict.grade == "sound"
    assert verdict.text.endswith("and what is held out or asked is new but for 1 held-out samples.")


def test_data_that_is_not_all_made_is_not_judged():
    verdict = data_verdict(measure(samples(TALK), 40, [], None), None, None, whole=False, held_out=0)
    assert verdict.grade == "unknown"


def test_the_figures_are_json_and_every_key_is_documented():
    made = told([*TALK, ("Who made you? <s>", "x")], words=["<s>"], p=["who made you"]).as_json()
    assert json.loads(json.dumps(made)) == made
    page = (REPOSITORY / "docs/check.md").read_text("utf-8").partition("## For machines")[2]
    keys = {
        *made,
        *made["leakage"],
        *made["leakage"]["held_out"],
        *made["verdict"],
        "histogram",
        "trained_share",
        "width",
    }
    assert keys <= set(re.findall(r"`(\w+)`", page))
