from hypothesis import given
from hypothesis import strategies as st

from tunemake.stages.data import split


def sample(number):
    return {"messages": [{"role": "user", "content": str(number)}, {"role": "assistant", "content": "x"}]}


@given(st.lists(st.integers(0, 20), max_size=60), st.floats(0, 0.9), st.integers(0, 1000))
def test_nothing_is_lost_nothing_is_on_both_sides_and_the_share_is_kept(numbers, share, seed):
    samples = [sample(number) for number in numbers]
    train, held_out = split(samples, share, seed)
    assert sorted(map(str, train + held_out)) == sorted(map(str, samples))
    assert not {str(s) for s in train} & {str(s) for s in held_out}
    assert len(held_out) <= round(share * len(samples))
    assert split(samples, share, seed) == (train, held_out)


def test_a_share_of_different_samples_is_met():
    train, held_out = split([sample(number) for number in range(200)], 0.05, 1)
    assert (len(train), len(held_out)) == (190, 10)
