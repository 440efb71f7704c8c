"""The page docs/correctness.md, written from the table of faults."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections import Counter
from collections.abc import Mapping

import measure

_HEAD = """# Correctness: every fault, tunemake and its peers

Written by `bench/faults.py`; do not edit. What a build tool owes: whatever happened before, the next build ends with the right files, does
not take a half-made file for a whole one, loses nothing that was finished, and runs nothing that did not have to run.
"""
_WORDS = """
## What the words mean
Each cell is one run: the fault is made, then the tool is asked to build, then once more, which has to do nothing. Both targets are compared
with what they must hold, worked out apart from any tool, and every action that ran is counted.

| word | meaning |
| --- | --- |
| ok | the next build ended with the right files, and ran only what the fault made necessary |
| **WRONG** | the build said that all is done, and a target is bad |
| **unnoticed** | the same after a change of the user's: nothing ran, the old target stayed |
| **stuck** | two builds in a row failed though nothing was wrong any more: someone has to delete or unlock something by hand |
| needless | the right files, but actions ran whose inputs had not changed, or which had been finished before |
| at the second try | the first build after the fault failed, the second one did it |
| the edit is lost | a target changed by hand was made anew, and nothing kept the change |
| a process goes on | when the tool had ended, something that it started still wrote |
| says done | exit code 0 of a build that was interrupted or could not write |

## The chain
`src → b → c`, two actions. Each writes half of its target, waits 0.4 s, in which the kills hit, and writes the other half. The peers have it
as a careful author writes it for them: the action's script is declared as a dependency, parameters go the tool's own way (for make a file of
their own), make has `.DELETE_ON_ERROR`, DVC its cache. tunemake has it as its own stages, since it builds nothing else: b is the artifact of
a dataset whose generator reads `src`, c the training file of the stage `data`, which is mixed and split of it. So tunemake's c is made by
code of its own, which has no pause: its kill in the second action hits as soon as that stage has begun. tunemake's later stages (training,
adapter, merge) rebuild by the same code; the acceptance tests kill those. Files of the chains: `bench/chains/`.

- SIGKILL goes to the build and its whole process group, as when a machine or a container ends. SIGTERM goes to the tool's process alone, as
  a scheduler sends it, SIGINT to the group, as a terminal does.
- "Size and mtime as before": the content is another, `os.utime` puts the time back.
- "Database": what the tool keeps for itself beside the targets: tunemake's `.doit.db.tunemake`, digest cache and notes of what was checked,
  doit's `.doit.db*`, DVC's `dvc.lock` and databases, Snakemake's metadata. make keeps nothing. tunemake's record of an artifact lies beside
  the files that it vouches for; without it they are made anew, which has a row of its own.
- "Two builds at once": started in the same moment in the same folder; where DVC and Snakemake refuse the second, that is told.

## To repeat it
```
python bench/faults.py --dvc PATH --snakemake PATH    # each in an environment of its own; what is absent is told
python bench/faults.py --tools tunemake --faults SIGKILL
```
"""


def write(table: Mapping[str, Mapping[str, str]], versions: Mapping[str, str | None]) -> None:
    """Write the page. table: by fault and tool, the cell. versions: of each tool, None where it is absent."""
    names = list(versions)
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    told = ", ".join(f"{name} {version or 'absent'}" for name, version in versions.items())
    cores = len(os.sched_getaffinity(0))
    lines = [
        _HEAD, f"{today}; {platform.system()} {platform.machine()}, {cores} cores, Python {platform.python_version()}; "
        f"{told}.", "", f"| fault | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}",
    ]  # fmt: skip
    for fault, cells in table.items():
        lines.append(f"| {fault} | {' | '.join(_shown(cells[name]) for name in names)} |")
    lines += ["", "How often each word stands there:", "", *_sums(table, names), _WORDS.rstrip(), ""]
    (measure.ROOT / "docs" / "correctness.md").write_text("\n".join(lines), "utf-8")


def _shown(cell: str) -> str:
    for word in ("WRONG", "unnoticed", "stuck"):
        cell = cell.replace(word, f"**{word}**")
    return cell


def _sums(table: Mapping[str, Mapping[str, str]], names: list[str]) -> list[str]:
    words = ("ok", "WRONG", "unnoticed", "stuck", "needless")
    counts = {name: Counter(_word(cells[name]) for cells in table.values()) for name in names}
    head = [f"| | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    return head + [f"| {word} | {' | '.join(str(counts[name][word]) for name in names)} |" for word in words]


def _word(cell: str) -> str:
    return cell.split(" ")[0].rstrip(":,")
