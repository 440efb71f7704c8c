"""The processes of one training, started by torchrun: none outlives the launcher or waits for one that has died.

torchrun gives each a session of its own, and tells them to end by SIGTERM alone, of which a process that waits within
NCCL for one that has died never hears.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

_LOOK_SECONDS = 0.5
_leaving = threading.Event()


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def end_with_launcher() -> None:
    """End this process when torchrun goes: a killed build would leave it."""
    launcher = os.getppid()
    _end_when(lambda: os.getppid() != launcher)


def end_with_fellows() -> None:
    """End this process when another one of its machine has died; all of them call this together."""
    from mmengine.dist import all_gather_object

    if not launched():
        return
    node, mine = os.environ["GROUP_RANK"], os.getpid()
    told: list[tuple[str, int]] = all_gather_object((node, mine))
    others = [process for where, process in told if where == node and process != mine]
    _end_when(lambda: any(not _lives(process) for process in others))


def leave() -> None:
    """Wait until all have done their work, and from then on let each end by itself."""
    from mmengine.dist import barrier

    barrier()
    _leaving.set()
    barrier()  # so that none sees another one gone before it knows that it may go


def _end_when(lost: Callable[[], bool]) -> None:
    def watch() -> None:
        while not lost():
            time.sleep(_LOOK_SECONDS)
        if not _leaving.is_set():
            sys.stderr.flush()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)  # so does one that has ended, until the launcher has taken note of it
    except ProcessLookupError:
        return False
    return True
