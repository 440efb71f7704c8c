import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake.training_length import padding


@given(st.lists(st.integers(1, 50), min_size=1, max_size=7), st.integers(1, 8))
def test_padding_is_that_of_all_batches_that_chance_may_make(lengths, batch):
    made = list(itertools.combinations(lengths, min(batch, len(lengths))))
    longest = sum(max(one) for one in made) / len(made)
    assert padding(lengths, batch) == pytest.approx(1 - sum(lengths) / len(lengths) / longest, abs=1e-4)


def test_padding_of_one_row_at_a_time_is_none():
    assert padding([3, 70, 5], 1) == 0
    assert padding([9, 9, 9], 3) == 0
