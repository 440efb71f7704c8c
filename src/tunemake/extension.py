"""A longer training that goes on from a shorter one, where that comes out as if it had never paused.

Under a constant learning rate without warm-up, the steps of the longer training begin as those of the shorter one.
Under any other schedule the rate of each step hangs on how many there are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunemake.artifacts import read_record
from tunemake.staleness import Decides

_LENGTHS = ("steps", "epochs")
_CONFIG = "config/decides.py"  # holds the length; config/extends.py is the same without it
_LOGS = ("metrics.jsonl", "answers.jsonl")


def extends(before: Mapping[str, Any], now: Decides) -> bool:
    """Say whether a training is a recorded one and more of the same."""
    if before["stage"] != "train":
        return False
    alike = _differs_in_length_alone(before, now) and _longer(before["parameters"], now)
    done = before["facts"].get("iterations")  # of a record that was fetched it may be anything
    # A training's last step may be of fewer iterations than the others; a longer one has none such there.
    # Chosen with the config, it is the same for both: extends.py holds it.
    together = now.parameters.get("accumulation", before["facts"].get("accumulation"))
    whole = alike and isinstance(done, int) and isinstance(together, int) and together > 0 and done % together == 0
    return whole and _goes_on(now.parameters) and "early_stop" not in now.parameters


def why_anew(before: Mapping[str, Any] | None, now: Decides) -> str | None:
    """Say why a training that is a recorded one and more of the same cannot go on from it; None where it is none."""
    if before is None or not _differs_in_length_alone(before, now) or not _longer(before["parameters"], now):
        return None
    if "early_stop" in now.parameters:
        return "with an early stop a longer training is a new one: it may end elsewhere"
    if _goes_on(now.parameters):
        return None
    what = f"a {now.parameters['schedule']} schedule" if now.parameters["schedule"] != "constant" else "a warm-up"
    return f"under {what} a longer training is a new one; it goes on only under a constant schedule without warm-up"


def take_over(entries: Path, now: Decides, work: Path) -> str | None:
    """Put the end of the longest training that `now` extends into a new work folder; name it, or None.

    entries: the folder of the store's artifacts. work: nothing is done where it has a checkpoint already.
    """
    if any(work.glob("iter_*.pth")):
        return None
    found = []
    for folder in entries.glob(f"{now.stage}-*"):
        record = read_record(folder)
        if record is not None and extends(record, now) and _last(folder) is not None:
            found.append((max(record["parameters"].get(name, 0) for name in _LENGTHS), folder))
    if not found:
        return None
    folder = max(found)[1]
    last = _last(folder)
    assert last is not None
    for name in _LOGS:  # first: the checkpoint says that all is there
        shutil.copyfile(folder / name, work / name)
    draft = work / f".{last.name}"
    draft.unlink(missing_ok=True)
    try:
        os.link(last, draft)
    except OSError:  # another file system
        shutil.copyfile(last, draft)
    draft.replace(work / last.name)
    return f"{last.name} of the training of {max(found)[0]}"


def _last(folder: Path) -> Path | None:
    """Give a training's last checkpoint; None where it lies elsewhere, or the name leads out of the folder."""
    try:
        last = folder / (folder / "last_checkpoint").read_text("utf-8").strip()
    except OSError:
        return None
    return last if last.is_file() and last.parent == folder else None


def _differs_in_length_alone(before: Mapping[str, Any], now: Decides) -> bool:
    if now.stage != "train" or before["stage_version"] != now.version:
        return False
    return (
        _without(before["parameters"], *_LENGTHS) == _without(now.parameters, *_LENGTHS)
        and _without(before["inputs"], _CONFIG) == _without(now.inputs, _CONFIG)
        and before["sources"] == now.sources
        and before["code"] == now.code
    )


def _goes_on(parameters: Mapping[str, Any]) -> bool:
    return bool(parameters["schedule"] == "constant" and not parameters["warmup"])


def _longer(before: Mapping[str, Any], now: Decides) -> bool:
    return any(0 < before.get(name, 0) < now.parameters.get(name, 0) for name in _LENGTHS)


def _without(table: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name not in names}
