"""How a build ends that is interrupted: with a line instead of a traceback, and with all its processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from types import TracebackType

_LOOK_SECONDS = 0.5


def end_in_order() -> None:
    """Set up this process, and those that doit forks from it (`-n`), to end so."""
    before = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("interrupted\n")
        else:
            before(kind, error, trace)

    sys.excepthook = tell
    signal.signal(signal.SIGTERM, _exit)  # so that doit ends its own processes, which it does for an exception alone
    os.register_at_fork(after_in_child=_end_with_parent)


def stop(signal_number: int) -> BaseException:
    """Give the exception that ends doit after a signal, with the code that a shell expects."""
    if multiprocessing.parent_process() is not None:
        return KeyboardInterrupt()  # doit hands on the class alone, and SystemExit would lose its code
    return SystemExit(128 + signal_number)


def _exit(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """Let a forked process end with the one that forked it; a kill would leave it waiting, or training, for ever."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os._exit(1)  # what it has started ends with it

    threading.Thread(target=watch, daemon=True).start()
