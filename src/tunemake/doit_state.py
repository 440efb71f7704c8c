"""doit's own notes (which tasks to ignore, results of a user's own tasks) in one small file that may be lost.

Whether a stage is fresh the records decide; for a stage's file dependencies doit is told that they are as they were,
since the stage's own check has looked at their content.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunemake.digests import canonical, replace_text


class StateFile:
    """A doit database (entry point `doit.BACKEND`); the file is written whole or not at all, and only when changed."""

    desc = "tunemake's: one file replaced in one step; the records decide"
    stages: frozenset[str] = frozenset()

    def __init__(self, name: str, codec: Any, module_name: str | None = None) -> None:  # noqa: ARG002 - doit's
        self.name = f"{name}.tunemake"
        self._path = Path(self.name)
        self._tasks: dict[str, dict[str, Any]] = _read(self._path)
        self._before = canonical(self._tasks)

    def dump(self) -> None:
        """Write the file if anything has changed."""
        text = canonical(self._tasks)
        if text == self._before:
            return
        with suppress(OSError):  # a full disk, a read-only folder: the notes may be lost
            replace_text(self._path, text)
            self._before = text

    def set(self, task_id: str, dependency: str, value: Any) -> None:
        """Keep a note; of a stage only whether it is ignored."""
        if task_id not in self.stages or dependency == "ignore:":
            self._tasks.setdefault(task_id, {})[dependency] = value

    def get(self, task_id: str, dependency: str) -> Any:
        """Give a note, or None."""
        if task_id in self.stages and not dependency.endswith(":"):
            return True  # a file's state; Unchanged below never compares it
        return self._tasks.get(task_id, {}).get(dependency)

    def in_(self, task_id: str) -> bool:
        """Say whether there are notes of a task."""
        return task_id in self._tasks

    def remove(self, task_id: str) -> None:
        """Drop the notes of a task."""
        self._tasks.pop(task_id, None)

    def remove_all(self) -> None:
        """Drop all notes."""
        self._tasks.clear()


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tasks = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # lost or damaged: nothing is rebuilt for it
    return tasks if isinstance(tasks, dict) else {}
