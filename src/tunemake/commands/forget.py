"""doit forget: as doit's own, and a stage's artifact is made anew by the next build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from doit.cmd_base import subtasks_iter, tasks_and_deps_iter
from doit.cmd_forget import Forget as DoitForget

from tunemake.store import Store


class Forget(DoitForget):  # type: ignore[misc]
    """doit's forget, which knows that the records decide; with other projects' tasks it does just what doit does."""

    sel_tasks: Any  # names, or None

    def _execute(self, forget_sub: bool, forget_disable_default: bool, forget_all: bool) -> None:  # noqa: FBT001
        if self.sel_tasks is None:  # no task is named, and there is no list of default ones: doit would fail
            self.sel_tasks = [task.name for task in self.task_list]
        super()._execute(forget_sub, forget_disable_default, forget_all)
        for task in self._chosen(forget_sub, forget_disable_default, forget_all):
            link = (task.meta or {}).get("tunemake_link")
            if link is not None:
                Store(Path.cwd()).forget(link)

    def _chosen(self, sub: bool, disable_default: bool, everything: bool) -> list[Any]:  # noqa: FBT001
        tasks: dict[str, Any] = {task.name: task for task in self.task_list}
        if everything:
            return list(tasks.values())
        if self.sel_default_tasks and disable_default:
            return []
        if sub:
            return list(tasks_and_deps_iter(tasks, self.sel_tasks))
        named = [tasks[name] for name in self.sel_tasks]
        return named + [below for task in named for below in subtasks_iter(tasks, task)]
