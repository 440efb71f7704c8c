"""Where the sessions of the page meet: models loaded once for all of them, and one answer at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from tunemake.generation import Answers
from tunemake.model_choice import Choice

_LOOK = 0.3  # seconds between two looks whether one's turn has come
_KEPT = 2  # models in memory: base and tuned, to be compared


class Hall:
    """Shared by all sessions.

    Models are loaded and asked in one's turn only: torch's default type and random numbers are the process's.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._models: OrderedDict[tuple[str, ...], Answers] = OrderedDict()

    @contextmanager
    def turn(self, wait: Callable[[], object]) -> Iterator[None]:
        """Have the models alone for as long. wait: called again and again until then, if others are before."""
        while not self._lock.acquire(timeout=_LOOK):
            wait()
        try:
            yield
        finally:
            self._lock.release()

    def has(self, choice: Choice) -> bool:
        """Say whether a model is loaded."""
        return _key(choice) in self._models

    def model(self, choice: Choice) -> Answers:
        """Give a model, loaded if need be, in place of the one that was asked least lately. Raises TunemakeError."""
        key = _key(choice)
        if key not in self._models:
            while len(self._models) >= _KEPT:
                self._models.popitem(last=False)
            self._models[key] = choice.load()
        self._models.move_to_end(key)
        return self._models[key]


def _key(choice: Choice) -> tuple[str, ...]:
    """Tell models apart by the artifacts that the links lead to: a new build is another model."""
    places = (choice.folder, choice.adapter, choice.checkpoint)
    return tuple(str(place.resolve()) if place else "" for place in places)
