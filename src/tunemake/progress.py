"""What a person sees while a stage runs: one live line at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tunemake.process import Event

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_QUIET_SECONDS = 10.0


class Watch:
    """Shows a stage's events on stderr; call it with each event."""

    def __init__(self, stage: str) -> None:
        self._stage, self._last = stage, time.monotonic()
        self._bar: TaskID | None = None
        self._live: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._live = live_line()
            self._live.start()
            self._bar = self._live.add_task(self._stage, total=None, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if "say" in event:
            self._print(f"    {event['say']}")
        elif self._live is not None and self._bar is not None:
            self._live.update(self._bar, completed=event["done"], total=event["total"], text=event["text"])
        elif time.monotonic() - self._last > _QUIET_SECONDS:
            self._last = time.monotonic()
            self._print(f"    {self._stage} {event['done']}/{event['total']}  {event['text']}")

    def _print(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def live_line(*, times: bool = True) -> Progress:
    """Give a line on stderr that shows how far something is: done, of how many, a text.

    times: how long it has been shown, and how long that lets expect; for what began earlier, these would be wrong.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    reckoned = (Elapsed(), TextColumn("left"), Remaining()) if times else ()
    return Progress(
        TextColumn("    {task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"), *reckoned,
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
