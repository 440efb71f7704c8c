import json

from hypothesis import given
from hypothesis import strategies as st

from tunemake.stages.data import held_out, keys


def line(number):
    messages = [{"role": "user", "content": str(number)}, {"role": "assistant", "content": "x"}]
    return json.dumps({"messages": messages}).encode()


@given(st.lists(st.integers(0, 20), max_size=60), st.floats(0, 0.9), st.integers(0, 1000))
def test_nothing_equal_is_on_both_sides_and_the_share_is_kept(numbers, share, seed):
    held = held_out(keys(map(line, numbers), seed), share)
    assert len(held) == len(numbers)
    sides = {number: {bool(held[i]) for i, other in enumerate(numbers) if other == number} for number in numbers}
    assert all(len(side) == 1 for side in sides.values())
    assert held.sum() <= round(share * len(numbers))
    assert (held_out(keys(map(line, numbers), seed), share) == held).all()


def test_a_share_of_different_samples_is_met_and_the_seed_chooses():
    lines = [line(number) for number in range(200)]
    one, other = (held_out(keys(lines, seed), 0.05) for seed in (1, 2))
    assert one.sum() == other.sum() == 10
    assert (one != other).any()


def test_the_order_of_keys_does_not_make_conversations_unlike():
    turned = b'{"messages":[{"content":"1","role":"user"},{"content":"x","role":"assistant"}]}'
    assert keys([line(1)], 7) == keys([turned], 7)
