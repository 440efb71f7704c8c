"""Samples of a generator as the dataset stage takes them: each must be whole."""

import tempfile
from pathlib import Path

from tunemake.samples import read_samples, write_checked


def checked(samples):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.jsonl"
        write_checked(path, samples, "test", refuse)
        return list(read_samples(path))


def refuse(place, faults, row):
    raise AssertionError(place, [str(fault) for fault in faults], row)
