"""Builds a project within this process: the same stages and records, with no process a stage and no flush to disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import measure

sys.path[:0] = [str(measure.ROOT / "src"), str(measure.ROOT / "plugins")]

from tunemake import building  # noqa: E402 - of this checkout
from tunemake.loading import load_builder  # noqa: E402
from tunemake.stages import EVENTS, Job  # noqa: E402


def build(root: Path, names: Iterable[str] | None = None) -> None:
    """Make the stages named, in that order; all by default. Digests are saved once, at the end."""
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))  # as for a process that starts there
    builder = load_builder(root)
    save = builder.store.digests.save
    with (
        mock.patch.object(building, "run_stage", _run),
        mock.patch.object(builder.store.digests, "save"),
        mock.patch.object(builder.store.digests, "refresh"),
        mock.patch.object(building, "_environment", return_value=building._environment()),  # noqa: SLF001 - asked once
        mock.patch("tunemake.stages.dataset.Plugins", return_value=builder.plugins),
        mock.patch("os.fsync"),
    ):
        for name in names or builder.stages:
            builder.make(name, anew=False, watch=lambda _: None)
    save()


def _run(stage: str, job: Job, *_: object) -> dict[str, Any]:
    facts: dict[str, Any] = import_module(f"tunemake.stages.{stage}").run(job)
    (job.work / EVENTS).unlink(missing_ok=True)
    return json.loads(json.dumps(facts))  # type: ignore[no-any-return]
