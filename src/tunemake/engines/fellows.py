"""The processes of one training that torchrun started on one machine: none outlives it, or waits for one that has died.

torchrun gives each a session of its own, and tells them to end by SIGTERM alone, of which a process that waits within
NCCL for one that has died never hears.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

_LOOK_SECONDS = 0.5
# A process that has ended lives on as a zombie until torchrun, which looks ten times a second, has taken note of it.
# While it waits for the others to end it takes note of none; who failed first it has told by then.
_ZOMBIE_LOOKS = 4
_SAVING_SECONDS = 20
_leaving = threading.Event()
_saving = threading.RLock()


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_with_launcher() -> None:
    """End this process when torchrun goes: a killed build would leave it, and the next one writes where it does.

    To be called at its very start.
    """
    launcher = os.getppid()
    _end_when(lambda: os.getppid() != launcher)


def end_with_fellows() -> None:
    """End this process when another one of its machine has died; all of them call this together."""
    from mmengine.dist import all_gather_object

    if not launched():
        return
    node, mine = os.environ["GROUP_RANK"], os.getpid()
    told: list[tuple[str, int]] = all_gather_object((node, mine))
    others = {process: 0 for where, process in told if where == node and process != mine}

    def died() -> bool:
        for process in others:
            others[process] = {"lives": 0, "zombie": others[process] + 1, "gone": _ZOMBIE_LOOKS}[_state(process)]
        return max(others.values()) >= _ZOMBIE_LOOKS and not _leaving.is_set()

    if others:
        _end_when(died, _SAVING_SECONDS)


def whole(save: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function that writes a checkpoint, in which this process is not ended for another one's death."""

    @wraps(save)
    def saved(*args: Any, **named: Any) -> Any:
        with _saving:
            return save(*args, **named)

    return saved


def leave() -> None:
    """Wait until all have done their work, and from then on let each end by itself."""
    from mmengine.dist import barrier

    barrier()
    _leaving.set()
    barrier()  # so that none sees another one gone before it knows that it may go


def _end_when(lost: Callable[[], bool], grace: float = 0) -> None:
    """End this process once it is true; grace: seconds left for a checkpoint that is being written."""

    def watch() -> None:
        try:
            while not lost():
                time.sleep(_LOOK_SECONDS)
            _saving.acquire(timeout=grace)
        finally:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _state(process: int) -> str:
    try:
        os.kill(process, 0)
    except OSError:  # none of that number, or another user's
        return "gone"
    stat = Path(f"/proc/{process}/stat")
    try:
        return "zombie" if stat.read_text().rpartition(")")[2].split()[0] == "Z" else "lives"
    except OSError:  # gone since, as the next look finds; or no Linux
        return "lives"
