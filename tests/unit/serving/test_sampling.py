"""Each wish of a request changes the choice of tokens as OpenAI's and the papers' formulas say."""

from collections import Counter

import pytest
import torch

from tunemake.serving.sampling import Sampler, Wish

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])


def drawn(wish, count=4000, logits=LOGITS):
    sampler = Sampler(wish, [])
    return Counter(sampler.next(logits) for _ in range(count))


@pytest.mark.parametrize("temperature", [0, 5e-324, 1e-300, 1e-45, 1e-38, 1e-5])
def test_temperature_0_takes_the_likeliest_and_so_does_one_near_it(temperature):
    logits = torch.tensor([-30.0, 30.0, 29.0, -400.0])
    assert drawn(Wish(temperature=temperature), 20, logits) == {1: 20}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature):
    found = drawn(Wish(temperature=temperature, seed=1))
    for token, share in enumerate((LOGITS / temperature).softmax(0).tolist()):
        assert found[token] / 4000 == pytest.approx(share, abs=0.03)


def test_top_p_leaves_the_fewest_that_have_it_together():
    # their probabilities are 0.64, 0.24, 0.09 and 0.03
    assert set(drawn(Wish(top_p=0.6, seed=1))) == {0}
    assert set(drawn(Wish(top_p=0.7, seed=1))) == {0, 1}
    assert set(drawn(Wish(top_p=0.96, seed=1))) == {0, 1, 2}
    assert set(drawn(Wish(top_p=1e-9, seed=1))) == {0}


def test_a_seed_gives_the_same_tokens_and_another_gives_others():
    def tokens(seed):
        sampler = Sampler(Wish(seed=seed), [])
        return [sampler.next(LOGITS) for _ in range(40)]

    assert tokens(5) == tokens(5) != tokens(6)
    assert tokens(-1) == tokens(-1)
    assert tokens(None) != tokens(None)


def test_frequency_counts_every_time_and_presence_once():
    flat = torch.tensor([1.0, 0.0])
    frequent = Sampler(Wish(temperature=0, frequency_penalty=0.4), [0])
    assert [frequent.next(flat) for _ in range(4)] == [0, 0, 0, 1]  # 1.0, 0.6, 0.2, -0.2 against 0
    present = Sampler(Wish(temperature=0, presence_penalty=0.4), [0])
    assert [present.next(flat) for _ in range(4)] == [0, 0, 0, 0]
    assert Sampler(Wish(temperature=0, presence_penalty=1.5), [0]).next(flat) == 0  # the prompt is not the answer


def test_repetition_lowers_what_prompt_or_answer_has():
    assert Sampler(Wish(temperature=0, repetition_penalty=3), [0]).next(torch.tensor([2.0, 1.0])) == 1
    assert Sampler(Wish(temperature=0, repetition_penalty=3), [0]).next(torch.tensor([-1.0, -2.0])) == 1
    answer = Sampler(Wish(temperature=0, repetition_penalty=3), [])
    assert [answer.next(torch.tensor([2.0, 1.0])) for _ in range(2)] == [0, 1]


def test_logits_of_the_batch_stay_as_they_are():
    logits = LOGITS.clone()
    sampler = Sampler(Wish(frequency_penalty=2, presence_penalty=2, repetition_penalty=2, seed=1), [0, 1])
    for _ in range(5):
        sampler.next(logits)
    assert torch.equal(logits, LOGITS)
