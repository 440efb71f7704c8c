"""Every folder of tests/examples/bad: the exact lines that its fault is told in, and nothing half-written.

A folder holds files that are laid over a tiny project, and expect.txt with the lines.
"""

import shutil
from pathlib import Path

import pytest

BAD = Path(__file__).parents[1] / "examples" / "bad"


@pytest.mark.parametrize("example", sorted(BAD.iterdir()), ids=lambda folder: folder.name)
def test_a_fault_is_told_before_anything_heavy_starts(example, project):
    shutil.copytree(example, project.root, dirs_exist_ok=True)
    expected = (example / "expect.txt").read_text("utf-8").strip()
    done = project.doit()
    assert done.code in {1, 3}
    assert expected in done.told()
    assert "Traceback" not in done.told()
    if ": datasets." in expected:  # of a dataset that fails, nothing is left that a later stage could take
        assert not list((project.root / "build").glob(".store/dataset-*"))
        assert not (project.root / "build/default/datasets").exists()
    assert not list((project.root / "build").glob(".store/train-*"))
    assert not list((project.root / "build").glob(".work/train-*"))
    assert not (project.root / "it_ran").exists()  # code_of_its_own would leave it
