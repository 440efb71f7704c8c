"""Several transfers at once with their progress, and questions that are not waited for without end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

_WORKERS = 4
Tell = Callable[[Mapping[str, Any]], None]
Given = TypeVar("Given")


class Progress:
    """Tells how many bytes have been moved, from several threads."""

    def __init__(self, verb: str, total: int, tell: Tell) -> None:
        self._verb, self._tell = verb, tell
        self._done, self._total = 0, total
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes that have been moved since."""
        with self._lock:
            self._done += count
            self._tell({"done": self._done, "total": self._total, "text": self._verb})


def each(work: Callable[[str], None], names: Iterable[str]) -> None:
    """Work on several at once. In threads that end with the process: an interrupted build waits for no upload."""
    waiting, failed = deque(names), list[BaseException]()

    def run() -> None:
        while not failed:
            try:
                name = waiting.popleft()
            except IndexError:
                return
            try:
                work(name)
            except BaseException as error:  # noqa: BLE001 - raised again below
                failed.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(_WORKERS, len(waiting)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:
        failed.append(error)
        raise
    if failed:
        raise failed[0]


def within(seconds: float, ask: Callable[[], Given]) -> Given:
    """Ask in a thread that is given up after a while; raises what it raises, or TimeoutError."""
    given: list[Given] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            given.append(ask())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not given:
        raise TimeoutError(f"no answer in {seconds:g} s")
    return given[0]
