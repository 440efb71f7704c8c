import pytest

from tunemake.faults import SampleError
from tunemake.samples import count_samples, folded, prompts_of, read_samples, validated, write_samples


def sample(*roles):
    return {"messages": [{"role": role, "content": f"{role} 说"} for role in roles]}


def test_samples_come_back_as_written_and_stay_readable(tmp_path):
    samples = [sample("user", "assistant"), sample("system", "user", "assistant")]
    write_samples(tmp_path / "s.json", samples)
    assert read_samples(tmp_path / "s.json") == samples
    assert "说" in (tmp_path / "s.json").read_text("utf-8")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"messages": []}, r"sample 2: messages: out of range; expected at least 2 item"),
        ({"messages": [{"role": "bot", "content": "x"}] * 2}, r"messages\[0\]\.role: not allowed"),
        ({"text": "x"}, r"sample 2: messages: missing"),
        (sample("user", "user"), r"sample 2: no assistant turn"),
        (sample("assistant", "user"), r"roles out of order: assistant, user"),
        (sample("user", "assistant", "user"), r"the last turn is not the assistant's"),
    ],
)
def test_a_wrong_sample_is_told_by_its_number(wrong, message):
    with pytest.raises(SampleError, match=message):
        list(validated([sample("user", "assistant"), wrong], "datasets.x"))


def test_counts():
    twice = [sample("user", "assistant")] * 2
    assert count_samples(twice) == {"samples": 2, "unique": 1, "turns": {"assistant": 2, "user": 2}}


def test_folding_lets_prompts_be_compared():
    assert folded("Who ARE you?!") == folded("who are you")
    assert folded("你是谁？") == folded("你是谁")
    assert prompts_of([sample("user", "assistant")]) == {"user说"}
