"""tunemake build: what `doit` does, with tunemake's exit codes for a project that is wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from doit.doit_cmd import DoitMain

from tunemake.commands.why import stages_of
from tunemake.gating import NO_GATE
from tunemake.loading import load_builder


def build(stages: Sequence[str], *, gate: bool = True) -> int:
    """Run doit for the stages in the current folder's project; give its exit code.

    gate: whether a model that fails its gate ends the build.
    """
    known = list(load_builder(Path.cwd()).stages)  # its faults have an exit code of their own here
    for name in stages:
        stages_of(known, name)
    if not gate:
        os.environ[NO_GATE] = "1"
    return int(DoitMain().run(["run", *stages]))
