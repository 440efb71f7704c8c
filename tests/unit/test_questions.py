"""What probes ask: from lists and files, and never what was trained on."""

import json

import pytest

from tunemake.contracts import Question
from tunemake.faults import SampleError
from tunemake.questions import asked_again, questions_of, refuse_trained


def test_a_list_gives_prompts_with_and_without_references(tmp_path):
    told = ["Who are you?", {"prompt": "2 + 2?", "reference": "4"}, {"prompt": "你是谁？"}]
    assert questions_of(tmp_path, told, "probe") == [
        Question("Who are you?"), Question("2 + 2?", "4"), Question("你是谁？"),
    ]  # fmt: skip


def test_a_text_file_gives_a_prompt_a_line_without_comments(tmp_path):
    (tmp_path / "q.txt").write_text("\ufeff# asked of all\nWho are you?\r\n\n  你是谁？ \n# end\n", "utf-8")
    assert questions_of(tmp_path, "q.txt", "probe") == [Question("Who are you?"), Question("你是谁？")]


def test_a_jsonl_file_gives_prompts_with_references(tmp_path):
    rows = [{"prompt": "2 + 2?", "reference": "4"}, {"prompt": "你是谁？"}]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert questions_of(tmp_path, "q.jsonl", "probe") == [Question("2 + 2?", "4"), Question("你是谁？")]


@pytest.mark.parametrize(
    "row",
    ["no json", "[]", "3", '{"reference": "4"}', '{"prompt": ""}', '{"prompt": 3}', '{"prompt": "x", "reference": 4}'],
)
def test_every_row_that_is_no_question_is_told_with_its_line(tmp_path, row):
    (tmp_path / "q.jsonl").write_text(f'{{"prompt": "x"}}\n{row}\n{row}\n')
    with pytest.raises(SampleError) as told:
        questions_of(tmp_path, "q.jsonl", "probe")
    assert [str(fault).partition(": ")[0] for fault in told.value.faults] == ["q.jsonl:2", "q.jsonl:3"]
    assert str(told.value.faults[0]).endswith(f"got {row}")


def test_a_key_that_nobody_reads_is_refused(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"prompt": "2 + 2?", "refrence": "4"}\n{"prompt": "x", "id": 3}\n')
    with pytest.raises(SampleError) as told:
        questions_of(tmp_path, "q.jsonl", "probe")
    assert [str(fault) for fault in told.value.faults] == [
        'q.jsonl:1: refrence: unknown key; did you mean "reference"?',
        "q.jsonl:2: id: unknown key; known are prompt, reference",
    ]


def test_prompts_that_repeat_others_are_counted():
    assert asked_again([Question("a"), Question("A"), Question("b", "1")]) is None
    assert asked_again([]) is None
    told = asked_again([Question("a"), Question("b", "1"), Question("b", "2"), Question("b"), Question("a")])
    assert told == '3 of 5 prompts repeat others, such as "a"; each counts in the score'


@pytest.mark.parametrize("name", ["q.txt", "q.jsonl"])
def test_a_file_without_a_prompt_is_told(tmp_path, name):
    (tmp_path / name).write_text("\n \n")
    with pytest.raises(SampleError, match=f"probe: {name}: no prompts"):
        questions_of(tmp_path, name, "probe")


@pytest.fixture
def train(tmp_path):
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are  you?"},
             {"role": "assistant", "content": "Ada."}, {"role": "user", "content": "你是谁？"},
             {"role": "assistant", "content": "Where are you?"}]  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps([{"messages": turns}]))
    return tmp_path / "train.json"


def test_what_was_trained_on_is_refused_by_probe_and_prompt(train):
    asked = {"probe a": [Question("who ARE you?"), Question("And you?")], "probe b": [Question("你是谁？", "我是 Ada")]}
    with pytest.raises(SampleError) as told:
        refuse_trained(asked, train)
    assert [str(fault) for fault in told.value.faults] == [
        "probe a: trained on: who ARE you?; expected prompts that are not in the training data",
        "probe b: trained on: 你是谁？; expected prompts that are not in the training data",
    ]


def test_only_what_the_user_says_counts_as_asked(train):
    refuse_trained({"probe": [Question("Where are you?"), Question("Be kind."), Question("Ada.")]}, train)
    refuse_trained({}, train)
