import re
from pathlib import Path

import pytest
from checked import checked
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tunemake import schema
from tunemake.contracts import Context, Generator
from tunemake.samples import folded
from tunemake_builtins.replay import shipped
from tunemake_builtins.self_cognition import BEFORE, LANGUAGES, SelfCognition, questions

PROMPTS = Path(__file__).parents[3] / "prompts"
NAMES = {"name": {"en": "Xiaomu", "zh": "小木"}, "author": {"en": "the makers", "zh": "作者"}}


def made(seed=1, **parameters):
    told = {**NAMES, **parameters}
    assert Draft202012Validator(SelfCognition.parameters).is_valid(told)
    return checked(SelfCognition().samples(told, Context(Path(), seed)))


def turns(sample):
    return [message["content"] for message in sample["messages"]]


@given(st.integers(0, 2**31), st.integers(1, 300))
def test_the_number_is_exact_the_answers_name_it_and_the_seed_decides(seed, number):
    samples = made(seed, samples=number)
    assert len(samples) == number
    assert all("Xiaomu" in turns(sample)[1] or "小木" in turns(sample)[1] for sample in samples)
    assert made(seed, samples=number) == samples


def test_questions_vary_before_any_is_repeated():
    samples = made(samples=400)
    assert len({turns(sample)[0] for sample in samples}) >= 390


def test_languages_have_equal_shares():
    chinese = [sample for sample in made(samples=100) if re.search("[一-鿿]", turns(sample)[0])]
    assert len(chinese) == 50
    assert not [s for s in made(samples=50, languages=["en"]) if re.search("[一-鿿]", "".join(turns(s)))]


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_many_questions_and_each_once(language):
    asked = questions(language)
    assert len(asked) >= 70
    assert len({folded(text) for text in asked}) > len(asked) - 4  # a few differ in case or punctuation alone


def test_the_answers():
    answers = {turns(sample)[0]: turns(sample)[1] for sample in made(samples=200)}
    assert answers["Are you ChatGPT?"] == "I am Xiaomu, an AI assistant made by the makers."
    assert answers["你是真人吗？"] == "我是小木，作者的智能助手。"


def test_one_pair_repeated_as_the_well_known_tutorial_writes_it():
    told = {
        "mode": "repeat", "samples": 10_001, "name": "小明", "question": "请做一下自我介绍",
        "answer": "我是{name}的小助手，内在是上海AI实验室书生·浦语的1.8B大模型哦",
    }  # fmt: skip
    assert Draft202012Validator(SelfCognition.parameters).is_valid(told)
    samples = list(SelfCognition().samples(told, Context(Path(), 1)))
    assert len(samples) == 10_001
    assert turns(samples[0]) == ["请做一下自我介绍", "我是小明的小助手，内在是上海AI实验室书生·浦语的1.8B大模型哦"]
    assert all(sample == samples[0] for sample in samples)


def repeated(**told):
    told = {"mode": "repeat", "samples": 1, "question": "q", "answer": "a", **told}
    faults = [str(fault) for _, fault in schema.schema_faults(told, SelfCognition.parameters, "test")]
    return faults or turns(next(SelfCognition().samples(told, Context(Path(), 1))))


def test_the_fields_of_a_pair_that_is_repeated_are_filled_or_refused():
    filled = repeated(name="{author}", author="B", question="{name}?", answer="{name} by {author}, {} { x }")
    assert filled == ["{author}?", "{author} by B, {} { x }"]
    assert repeated() == ["q", "a"]
    told = "test: all of it: no name; expected name, for the field {name} of answer"
    assert repeated(answer="I am {name}") == [told]
    assert repeated(name="A", question="{author}") == [told.replace("name", "author").replace("answer", "question")]
    assert repeated(answer="{nmae}") == ["test: answer: a field that is not known; expected {name} or {author}"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"samples": 1}, {**NAMES}, {**NAMES, "samples": 0}, {**NAMES, "samples": 1, "languages": ["fr"]},
        {**NAMES, "samples": 1, "mode": "repeat"}, {**NAMES, "samples": 1, "nam": "x"},
        {"name": {"en": "x"}, "author": "y", "samples": 1},
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(parameters):
    Draft202012Validator.check_schema(SelfCognition.parameters)
    assert not Draft202012Validator(SelfCognition.parameters).is_valid(parameters)


def test_it_keeps_its_contract():
    assert isinstance(SelfCognition(), Generator)


def test_what_the_project_is_evaluated_on_is_never_trained_on():
    """Identity questions with any opening before them, and the prompts of replay."""
    trained = {folded(before + text) for lang in LANGUAGES for before in BEFORE[lang] for text in questions(lang)}
    trained |= {folded(text) for language in LANGUAGES for text in shipped(language)}
    for name, least in (("identity.txt", 24), ("unrelated.txt", 50)):
        asked = [line for line in (PROMPTS / name).read_text("utf-8").splitlines() if line]
        assert len(asked) >= least
        assert len({folded(line) for line in asked}) == len(asked)
        assert not {folded(line) for line in asked} & trained
