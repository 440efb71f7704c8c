"""How a build ends that is interrupted: with a line instead of a traceback, and with all its processes."""

from __future__ import annotations

import functools
import multiprocessing
import os
import select
import signal
import sys
import threading
from types import TracebackType

_LOOK_SECONDS = 0.5
_NUDGE = signal.SIGURG  # ignored by default, so that it harms nobody


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
    os.register_at_fork(
        after_in_child=lambda: _watch(os.getppid()), after_in_parent=functools.cache(lambda: _watch(None))
    )


def stop(signal_number: int) -> BaseException:
    """Give the exception that ends doit after a signal, with the code that a shell expects."""
    if multiprocessing.parent_process() is not None:
        return KeyboardInterrupt()  # doit hands on the class alone, and SystemExit would lose its code
    return SystemExit(128 + signal_number)


def _exit(number: int, _frame: object) -> None:
    if multiprocessing.parent_process() is not None:
        os._exit(128 + number)  # a worker has nothing to tidy, and could wait for ever for doit's queue while it tries
    raise SystemExit(128 + number)


def _watch(parent: int | None) -> None:
    """See to it that a signal reaches the main thread, and that a worker ends with the process that forked it.

    The kernel may hand a signal to any thread, and Python's handler then waits for the main thread, which waits for
    doit's queue. A worker whose parent was killed would wait there, or train, for ever.
    """
    main = threading.main_thread().ident
    end, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.signal(_NUDGE, lambda *_: None)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)

    def watch() -> None:
        while parent is None or os.getppid() == parent:
            come = select.select([end], [], [], None if parent is None else _LOOK_SECONDS)[0]
            if come and main is not None and set(os.read(end, 64)) - {_NUDGE}:
                signal.pthread_kill(main, _NUDGE)
        os._exit(1)  # what it has started ends with it

    threading.Thread(target=watch, daemon=True).start()
