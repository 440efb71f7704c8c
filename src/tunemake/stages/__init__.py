"""One module a stage: values and paths in, files out; no stage reads project.toml.

Each runs in a process of its own (`python -m tunemake.stages STAGE FOLDER`), so that what it imports, leaks or crashes
stays there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS, JOB, FAULTS, DONE, LOG = ".events.jsonl", ".job.json", ".faults.json", ".done.json", "log.txt"


@dataclass(frozen=True)
class Job:
    """What a stage is given.

    root: the project's folder. work: the folder to fill, empty but for what a killed training left.
    parameters: the values that decide the content, the very dict that is fingerprinted. runtime: values that only
    decide how it runs. inputs: by role, the artifact folder of the stage that plays it.
    """

    root: Path
    work: Path
    parameters: Mapping[str, Any]
    runtime: Mapping[str, Any]
    inputs: Mapping[str, Path]

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Report how far the work is, for whoever watches."""
        self._event({"done": done, "total": total, "text": text})

    def say(self, text: str) -> None:
        """Report a line worth reading."""
        self._event({"say": text})

    def _event(self, event: Mapping[str, Any]) -> None:
        with (self.work / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), **event}, ensure_ascii=False) + "\n")
