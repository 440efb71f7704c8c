"""The one thread that generates: a bounded queue in front, rows that join and leave at a step's border, time limits."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunemake.serving.rows import Rows
from tunemake.serving.work import Finish, Told, Work

_PROMPT_TOKENS = 4096  # read in one step, so that the answers being made do not wait long for new ones
_PATIENCE = 5.0  # seconds that closing waits for a step to end
_WEIGHT = 0.2  # of the newest answer in the mean of what one takes


class QueueFullError(Exception):
    """As many requests wait as may. seconds: after which it is worth asking again."""

    def __init__(self, seconds: int) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass(frozen=True)
class Limits:
    """What bounds the work. rows: answers made together. queue: requests that may wait. timeout: seconds for one.

    tokens: those whose keys may be kept at once by one model, padding included; None for as many as a row may have,
    and 1024 for each row.
    """

    rows: int = 16
    queue: int = 64
    timeout: float = 300.0
    tokens: int | None = None


class Lane:
    """One loaded model with what waits for it. context: tokens that prompt and answer may have together.

    adapted: it is PEFT's, with adapters that each request chooses from.
    """

    def __init__(self, model: Any, context: int, *, adapted: bool = False) -> None:
        self.rows, self.context = Rows(model, adapted=adapted), context
        self.waiting: deque[Work] = deque()
        self.working: list[Work] = []


class GenerationThread:
    """Makes the answers of all lanes. count: called with a name and an amount for the metrics."""

    def __init__(self, lanes: Mapping[str, Lane], limits: Limits, count: Callable[[str, float], None]) -> None:
        self._lanes, self._limits, self._count = lanes, limits, count
        self._change = threading.Condition()
        self._closed = False
        self._mean = 1.0  # seconds an answer takes
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it can answer."""
        return self._thread.is_alive() and not self._closed

    @property
    def waiting(self) -> int:
        """Count the requests that no row works on yet."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    @property
    def working(self) -> int:
        """Count the answers that are being made."""
        return sum(len(lane.working) for lane in self._lanes.values())

    def submit(self, lane: str, work: Work) -> None:
        """Put a request into the queue; raises QueueFullError."""
        with self._change:
            # What can begin at once does not wait, though the thread may be busy with a step.
            free = sum(max(0, self._limits.rows - len(each.working)) for each in self._lanes.values())
            if self.waiting >= self._limits.queue + free:
                rounds = 1 + self.waiting / (self._limits.rows * len(self._lanes))
                raise QueueFullError(min(60, max(1, round(self._mean * rounds))))
            self._lanes[lane].waiting.append(work)
            self._change.notify()

    def drop(self, work: Work) -> None:
        """Stop working on a request whose client is gone."""
        with self._change:
            work.gone = True
            self._change.notify()

    def close(self, *, wait: bool) -> None:
        """End all work: what is not answered yet is told so. wait: until the thread has ended, for some seconds."""
        with self._change:
            self._closed = True
            self._change.notify()
        if wait:
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while not self._closed:
            for lane in self._lanes.values():
                try:
                    self._leave(lane)
                    self._turn(lane)
                except Exception:  # noqa: BLE001 - out of memory, a model's own fault: those that wait are not to blame
                    traceback.print_exc(file=sys.stderr)
                    self._end_all(lane, lane.working, "failed")
            with self._change:
                while not self._closed and not (self.waiting or self.working):
                    self._change.wait()
        for lane in self._lanes.values():
            self._end_all(lane, [*lane.working, *lane.waiting], "closed")

    def _leave(self, lane: Lane) -> None:
        """Let go what nobody listens to, and what has taken too long."""
        now = time.monotonic()
        late = [work for work in (*lane.working, *lane.waiting) if now - work.began > self._limits.timeout]
        for work in late:
            if not work.gone:
                self._finish(work, "timeout")
        for work in lane.working:
            if work.gone and work not in late:
                self._count("cancelled", 1)
        left = [work for work in lane.working if not work.gone and work not in late]
        self._keep(lane, left)
        with self._change:
            lane.waiting = deque(work for work in lane.waiting if not work.gone and work not in late)

    def _turn(self, lane: Lane) -> None:
        began = time.monotonic()
        self._make_room(lane)
        if lane.working:
            lane.rows.step()
            self._take(lane, lane.working)
        if new := self._admitted(lane):
            lane.working += new
            lane.rows.add([work.as_row() for work in new])
            self._take(lane, new)
        if lane.working or new:
            self._count("steps", 1)
            self._count("busy", time.monotonic() - began)

    def _make_room(self, lane: Lane) -> None:
        """Have the newest wait again where the answers have grown beyond what may be kept: the oldest go on."""
        while len(lane.working) > 1:
            longest = 1 + max(len(work.prompt) + work.made for work in lane.working)
            if len(lane.working) * longest <= self._tokens(lane):
                return
            *older, newest = lane.working
            self._keep(lane, older)
            with self._change:
                lane.waiting.appendleft(newest)

    def _tokens(self, lane: Lane) -> int:
        return self._limits.tokens or max(lane.context, 1024 * self._limits.rows)

    def _admitted(self, lane: Lane) -> list[Work]:
        """Give those that wait and for whom there is room, first come first served."""
        new: list[Work] = []
        with self._change:
            while lane.waiting and len(lane.working) + len(new) < self._limits.rows:
                these = [*new, lane.waiting[0]]
                rows = [*lane.working, *these]
                full = len(rows) * max(work.room for work in rows) > self._tokens(lane)
                slow = len(these) * max(len(work.prompt) + work.made for work in these) > _PROMPT_TOKENS
                if (full and len(rows) > 1) or (slow and new):
                    break
                new.append(lane.waiting.popleft())
        return new

    def _take(self, lane: Lane, works: Sequence[Work]) -> None:
        """Tell what the newest token of each says, and let those leave that ended."""
        ended = {work for work in works if self._spoken(work)}
        self._keep(lane, [work for work in lane.working if work not in ended])

    def _spoken(self, work: Work) -> bool:
        assert work.row is not None
        token = work.row.last
        work.made += 1
        self._count("tokens", 1)
        if work.made == 1:
            self._count("first", time.monotonic() - work.began)
        if token in work.stop_ids:
            self._finish(work, "stop")
            return True
        text = work.speech.add(token)
        if work.speech.stopped or work.made >= work.longest:
            self._finish(work, "stop" if work.speech.stopped else "length", text)
            return True
        if text:
            work.tell(Told(text, None))
        return False

    def _finish(self, work: Work, why: Finish, text: str = "") -> None:
        end = text + work.speech.end()
        # A stop word may be found only in what comes last.
        work.tell(Told(end, "stop" if work.speech.stopped else why))
        self._mean += _WEIGHT * (time.monotonic() - work.began - self._mean)
        self._count(why, 1)

    def _keep(self, lane: Lane, left: list[Work]) -> None:
        if len(left) != len(lane.working):
            lane.rows.keep([work.row for work in left if work.row is not None])
            lane.working = left

    def _end_all(self, lane: Lane, works: Sequence[Work], why: Finish) -> None:
        for work in works:
            self._finish(work, why)
        self._keep(lane, [])
