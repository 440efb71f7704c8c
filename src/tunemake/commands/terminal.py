"""A conversation at a terminal: lines edited by prompt_toolkit, answers shown by rich as they come."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunemake.conversation import harmless
from tunemake.faults import InputError

_YOU = FormattedText([("bold", "you › ")])
_NEXT = "      "  # under the prompt


class Terminal:
    """The screen of a terminal. home: a folder to keep the history of lines in; without it none is kept."""

    attended = True

    def __init__(self, home: Path) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False)
        history: History = FileHistory(str(home / "chat_history")) if home.is_dir() else InMemoryHistory()
        self._session: PromptSession[str] = PromptSession(
            history=history, key_bindings=_keys(), prompt_continuation=_NEXT, enable_open_in_editor=True
        )

    def lines(self) -> Iterator[str]:
        """Give what the user enters, pasted lines together, until Ctrl-D; Ctrl-C drops what was typed."""
        self.note("/help shows the commands; Alt-Enter begins a new line, Ctrl-C stops an answer, Ctrl-D ends")
        while True:
            try:
                yield self._session.prompt(_YOU)
            except KeyboardInterrupt:
                continue
            except EOFError:
                return

    def say(self, pieces: Iterator[str], name: str) -> None:
        """Show an answer as it comes."""
        self._console.print(Text(f"{name} › ", style="bold cyan"), end="")
        for piece in pieces:
            self._console.print(Text(harmless(piece)), end="", soft_wrap=True)
            self._console.file.flush()
        self._console.print("\n")

    def beside(self, answers: Mapping[str, str]) -> None:
        """Show answers in columns."""
        table = Table(expand=True, title_justify="left")
        for name in answers:
            table.add_column(name, ratio=1, overflow="fold")
        table.add_row(*(Text(harmless(answer)) for answer in answers.values()))
        self._console.print(table)

    def note(self, text: str) -> None:
        """Tell it, dimly."""
        self._console.print(Text(harmless(text), style="dim"), soft_wrap=True)

    def refuse(self, error: InputError) -> None:
        """Tell it: the next line may be better."""
        self._console.print(Text(str(error), style="red"), soft_wrap=True)

    def waiting(self, text: str) -> AbstractContextManager[Any]:
        """Show that it takes a while."""
        return self._console.status(Text(text))

    @contextmanager
    def stopping(self, stop: Event) -> Iterator[None]:
        """Let Ctrl-C set an event instead of ending the program."""
        former = signal.signal(signal.SIGINT, lambda _number, _frame: stop.set())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, former)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
