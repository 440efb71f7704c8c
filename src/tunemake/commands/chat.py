"""tunemake chat and doit chat: a conversation with a model, at a terminal or through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from doit.cmd_base import Command

from tunemake.commands.doit_end import ends_in_order
from tunemake.commands.talk_options import CHAT, for_doit, options_of
from tunemake.commands.talk_session import Session
from tunemake.conversation import harmless
from tunemake.faults import Fault, InputError
from tunemake.model_choice import Models


class Screen(Protocol):
    """Where a conversation is shown. attended: somebody looks on."""

    attended: bool

    def lines(self) -> Iterator[str]:
        """Give what the user says, until the end."""

    def say(self, pieces: Iterator[str], name: str) -> None:
        """Show an answer as it comes. name: whose it is."""

    def beside(self, answers: Mapping[str, str]) -> None:
        """Show answers side by side, by whose they are."""

    def note(self, text: str) -> None:
        """Tell something that is no answer."""

    def refuse(self, error: InputError) -> None:
        """Tell what cannot be done; raise it where nobody could try again."""

    def waiting(self, text: str) -> AbstractContextManager[Any]:
        """Show what is waited for."""

    def stopping(self, stop: Event) -> AbstractContextManager[Any]:
        """Let the user set an event while an answer is made."""


class Pipe:
    """Answers on standard output and nothing else there; what is told beside goes to standard error."""

    attended = False

    def lines(self) -> Iterator[str]:
        """Give the lines of standard input; raises InputError for what is not UTF-8."""
        while True:
            try:
                line = input()
                line.encode()  # in some locales what cannot be decoded comes as surrogates
            except EOFError:
                return
            except UnicodeError:
                raise InputError(Fault("standard input", "not UTF-8")) from None
            yield line

    def say(self, pieces: Iterator[str], name: str) -> None:  # noqa: ARG002 - only a terminal shows whose it is
        """Write an answer, and a line's end."""
        for piece in pieces:
            print(harmless(piece), end="", flush=True)  # noqa: T201 - a command prints
        print(flush=True)  # noqa: T201

    def beside(self, answers: Mapping[str, str]) -> None:
        """Write the answers, one after the other."""
        for answer in answers.values():
            print(harmless(answer), flush=True)  # noqa: T201

    def note(self, text: str) -> None:
        """Write to standard error."""
        print(text, file=sys.stderr)  # noqa: T201

    def refuse(self, error: InputError) -> None:
        """Raise it: whoever wrote the lines is not there to write others."""
        raise error

    def waiting(self, text: str) -> AbstractContextManager[Any]:  # noqa: ARG002 - nobody looks on
        """Show nothing."""
        return nullcontext()

    def stopping(self, stop: Event) -> AbstractContextManager[Any]:  # noqa: ARG002 - an interrupt ends the program
        """Let nothing stop it."""
        return nullcontext()


def chat(root: Path, what: str | None, values: Mapping[str, Any]) -> None:
    """Hold a conversation until standard input ends. values: the options of talk_options.CHAT.

    what: a variant or a model's folder; default: the first variant's merged model. Raises InputError for what is wrong.
    """
    options, models = options_of(values), Models(root)
    choice = models.choose(what, base=values["base"], checkpoint=values["checkpoint"])
    screen = _screen(root)
    session = Session(models, choice, options, screen, values["system"])
    session.open()
    for line in screen.lines():
        if line.strip():
            session.take(line.strip())


def _screen(root: Path) -> Screen:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return Pipe()
    from tunemake.commands.terminal import Terminal

    return Terminal(root / "build" / ".cache")


class Chat(Command):  # type: ignore[misc]
    """doit's command `chat`."""

    name = "chat"
    doc_purpose = "talk to a model: a variant's, its base, a checkpoint, or any model folder"
    doc_usage = "[VARIANT | FOLDER]"
    doc_description = None
    cmd_options = for_doit(CHAT)

    def execute(self, opt_values: Any, pos_args: Sequence[str]) -> int:
        """Talk."""
        with ends_in_order():
            chat(Path.cwd(), pos_args[0] if pos_args else None, opt_values)
        return 0
