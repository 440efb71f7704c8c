"""Fixtures that every test may use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # tests/tiny.py

# The heaviest first, so that two workers end together.
_ORDER = {"main_job": 0, "train": 1}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return min((place for mark, place in _ORDER.items() if item.get_closest_marker(mark)), default=2)

    items.sort(key=rank)
