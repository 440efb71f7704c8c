import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemake.data_statistics import Statistics
from tunemake.training_length import padding, training_length


@given(st.lists(st.integers(1, 50), min_size=1, max_size=7), st.integers(1, 8))
def test_padding_is_that_of_all_batches_that_chance_may_make(lengths, batch):
    made = list(itertools.combinations(lengths, min(batch, len(lengths))))
    longest = sum(max(one) for one in made) / len(made)
    assert padding(lengths, batch) == pytest.approx(1 - sum(lengths) / len(lengths) / longest, abs=1e-4)


def test_padding_of_one_row_at_a_time_is_none():
    assert padding([3, 70, 5], 1) == 0
    assert padding([9, 9, 9], 3) == 0


@pytest.mark.parametrize(
    ("devices", "batch", "told"), [(1, 8, (5, 6.0)), (2, 4, (5, 6.0)), (4, 2, (5, 6.0)), (3, 4, (4, 7.5))]
)
def test_each_device_takes_its_part_of_the_rows(devices, batch, told):
    """38 samples: what XTuner counts as iterations of one pass, and the passes that 30 steps make."""
    found = Statistics(38, tokens=None)
    passes = {"batch_size": batch, "accumulation": 1, "epochs": 1}
    assert training_length(found, passes, packing=False, devices=devices).iterations == told[0]
    steps = {"batch_size": batch, "accumulation": 1, "steps": 30}
    assert training_length(found, steps, packing=False, devices=devices).epochs == told[1]
