"""Every error that a user can meet. No I/O: cli.py and tasks.py print.

TunemakeError            one or more faults, told together
├── InputError           the user's input is wrong (exit code 2)
│   ├── ProjectError     project.toml
│   ├── PluginError      a dataset generator or a prompt template
│   ├── ModelError       the base model, its files or its source
│   └── SampleError      data
├── StageError           a stage failed (exit code 1)
└── StoppedError         interrupted by a signal (exit code 130 or 143)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, told in one line.

    where: file or dotted name; line and column count from 1.
    what: what is wrong there. expected, got, next_step: the rest of the line, each left out where None.
    """

    where: str
    what: str
    expected: str | None = None
    got: str | None = None
    next_step: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        place = self.where
        if self.line is not None:
            place += f":{self.line}:{self.column or 1}"
        text = f"{place}: {self.what}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.got is not None:
            text += f", got {self.got}" if self.expected is not None else f"; got {self.got}"
        if self.next_step is not None:
            text += f"; {self.next_step}"
        return one_line(text)


def one_line(text: str) -> str:
    """Give a text on one line, whatever a key, a sample or a stranger's exception holds; nothing steers a terminal."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


class TunemakeError(Exception):
    """Faults that end a command; str() gives one line each."""

    exit_code = 1

    def __init__(self, faults: Fault | Iterable[Fault]) -> None:
        self.faults = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class InputError(TunemakeError):
    """The user's input is wrong."""

    exit_code = 2


class ProjectError(InputError):
    """project.toml is wrong."""


class PluginError(InputError):
    """A plugin breaks its contract, is missing, or its parameters are wrong."""


class ModelError(InputError):
    """The base model, its files or its source are wrong."""


class SampleError(InputError):
    """Data is wrong or missing."""


class StageError(TunemakeError):
    """A stage failed; what it had made before is as it was."""


class StoppedError(TunemakeError):
    """A signal ended the work. exit_code: 128 plus the signal's number."""

    def __init__(self, fault: Fault, signal_number: int) -> None:
        super().__init__(fault)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Give 'did you mean "x"?' for a word close to a known one, else None."""
    import difflib

    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), list(folded), n=1)
    return f'did you mean "{folded[close[0]]}"?' if close else None
