import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake.samples import folded, prompts_of, read_lines, read_samples, write_checked, write_samples


def sample(*roles):
    return {"messages": [{"role": role, "content": f"{role} 说"} for role in roles]}


@pytest.fixture
def written(tmp_path):
    """Write samples; give what was written, what was refused, and the counts."""

    def write(samples):
        refused = []
        path = tmp_path / "s.jsonl"
        tally = write_checked(path, samples, "datasets.x", lambda *told: refused.append(told))
        return list(read_samples(path)), refused, tally.counts()

    return write


def test_samples_come_back_as_written_and_stay_readable(tmp_path, written):
    samples = [sample("user", "assistant"), sample("system", "user", "assistant")]
    assert written(samples)[0] == samples
    lines = list(read_lines(tmp_path / "s.jsonl"))
    for suffix in ("json", "jsonl"):
        path = tmp_path / f"t.{suffix}"
        assert write_samples(path, lines).counts()["samples"] == 2
        assert list(read_samples(path)) == samples
        assert "说" in path.read_text("utf-8")


MESSAGES = st.permutations(["role", "content"]).flatmap(
    lambda keys: st.fixed_dictionaries({key: st.text(max_size=6) for key in keys})
)


@given(st.lists(st.fixed_dictionaries({"messages": st.lists(MESSAGES, min_size=1, max_size=3)}), max_size=3))
def test_a_list_is_the_json_that_everyone_else_writes(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("list") / "t.json"
    write_samples(path, [json.dumps(one, ensure_ascii=False).encode() for one in samples])
    assert path.read_bytes().decode() == json.dumps(samples, ensure_ascii=False, indent=4) + "\n"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"messages": []}, "sample 2: messages: too few; expected at least 2 item"),
        ({"messages": [{"role": "bot", "content": "x"}] * 2}, "messages[0].role: not allowed"),
        ({"text": "x"}, "sample 2: messages: missing"),
        (None, "sample 2: all of it: wrong type"),
        (sample("user", "user"), "sample 2: no assistant turn"),
        (sample("assistant", "user"), "roles out of order: assistant, user"),
        (sample("user", "assistant", "user"), "the last turn is not the assistant's"),
        (sample("system", "assistant"), "roles out of order: system, assistant"),
        (sample("user", "assistant") | {"messages": {"role": "user"}}, "messages: wrong type"),
        ({"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "x"}]}, "as JSON"),
        ({"messages": [{"role": "user", "content": 1.5}, {"role": "assistant", "content": {1}}]}, "wrong type"),
    ],
)
def test_a_wrong_sample_is_told_by_its_number_and_the_others_are_written(written, wrong, message):
    good = sample("user", "assistant")
    kept, ((place, faults, row),), counts = written([good, wrong, good])
    assert (kept, place, row) == ([good, good], "datasets.x: sample 2", wrong)
    assert any(message in str(fault) for fault in faults), [str(fault) for fault in faults]
    assert counts["samples"] == 2


def test_a_wrong_sample_far_behind_keeps_its_number(written):
    good = sample("user", "assistant")
    kept, ((place, _, _),), _ = written([good] * 2500 + [{}] + [good] * 10)
    assert (len(kept), place) == (2510, "datasets.x: sample 2501")


def test_a_table_filled_again_and_again_gives_each_sample_as_it_was(written):
    one = sample("user", "assistant")

    def again():
        for number in range(3):
            one["messages"][0]["content"] = str(number)
            yield one

    assert [kept["messages"][0]["content"] for kept in written(again())[0]] == ["0", "1", "2"]


def test_conversations_of_unlike_lengths_are_all_taken(written):
    shapes = [("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant") * 3]
    kept, refused, _ = written([sample(*shapes[number % 3]) for number in range(9)])
    assert (len(kept), refused) == (9, [])


def test_counts(written):
    twice = [sample("user", "assistant")] * 2
    assert written(twice)[2] == {"samples": 2, "unique": 1, "turns": {"assistant": 2, "user": 2}}


def test_folding_lets_prompts_be_compared():
    assert folded("Who ARE you?!") == folded("who are you")
    assert folded("你是谁？") == folded("你是谁")
    assert set(prompts_of([sample("user", "assistant")])) == {"user说"}
