"""tunemake build: what `doit` does, with tunemake's exit codes for a project that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from doit.doit_cmd import DoitMain

from tunemake.loading import load_builder


def build(stages: Sequence[str]) -> int:
    """Run doit for the stages in the current folder's project; give its exit code."""
    load_builder(Path.cwd())  # its faults have an exit code of their own here
    return int(DoitMain().run(["run", *stages]))
