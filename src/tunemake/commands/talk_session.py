"""What a line of a conversation does: a question is answered, a command beginning with / is carried out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from tunemake.conversation import Conversation, Utterance, add_sample
from tunemake.faults import Fault, InputError, did_you_mean
from tunemake.generation import Answers
from tunemake.model_choice import Choice, Models
from tunemake.talking import Options, Speech

if TYPE_CHECKING:
    from tunemake.commands.chat import Screen

_COMMAND = re.compile(r"(/[a-z]+)(?:\s+(.*))?", re.DOTALL)
_VALUES: dict[str, Callable[[str], float]] = {
    "max_length": int, "max_new_tokens": int, "top_p": float, "temperature": float, "repetition_penalty": float,
    "seed": int,
}  # fmt: skip


class Session:
    """A conversation with one model, and its commands. screen: where it is shown."""

    def __init__(self, models: Models, choice: Choice, options: Options, screen: Screen, system: str) -> None:
        self._models, self._choice, self._options, self._screen = models, choice, options, screen
        self._talk = Conversation(system)
        self._loaded: dict[str, Answers] = {}
        self._commands: dict[str, tuple[Callable[[str], None], str]] = {
            "/reset": (self._reset, "begin a new conversation"),
            "/system": (self._system, "TEXT: set the system prompt and begin anew; without a text: none"),
            "/regenerate": (self._regenerate, "answer the last question anew"),
            "/compare": (self._compare, "PROMPT: what the base model answers, beside this one"),
            "/save": (self._save, "FILE.jsonl: add the conversation to a file of samples"),
            "/set": (self._set, "NAME VALUE: one of the options below"),
            "/help": (self._help, "show this"),
        }

    def open(self) -> None:
        """Load the model, and tell what must be known of it."""
        self._model(self._choice)
        if self._models.failed_gate(self._choice):
            self._screen.note(f"{self._choice.name}: this model failed its gate; doit gate says why")
        if self._screen.attended and (command := self._models.xtuner_command(self._choice)):
            self._screen.note(f"XTuner's own chat talks to this model too: {command}")

    def take(self, line: str) -> None:
        """Do what a line says. Where it cannot be done the screen decides what becomes of the InputError."""
        try:
            self._do(line)
        except InputError as error:
            self._screen.refuse(error)

    def _do(self, line: str) -> None:
        told = _COMMAND.fullmatch(line)
        if told is None:
            stop = Event()
            self._answer(self._talk.ask(self._model(self._choice), line, self._options, stop), stop)
            return
        if told[1] not in self._commands:
            step = did_you_mean(told[1], self._commands) or "/help shows those that are there"
            raise InputError(Fault(told[1], "no such command", next_step=step))
        self._commands[told[1]][0]((told[2] or "").strip())

    def _model(self, choice: Choice) -> Answers:
        if choice.name not in self._loaded:
            with self._screen.waiting(f"loading {choice.name}"):
                self._loaded[choice.name] = choice.load()
        return self._loaded[choice.name]

    def _answer(self, utterance: Utterance, stop: Event) -> None:
        if utterance.speech.left_out:
            self._screen.note(f"no room for the whole conversation: {utterance.speech.left_out} oldest turns left out")
        with self._screen.stopping(stop):
            self._screen.say(iter(utterance), self._choice.name)
        if utterance.speech.stopped:
            self._screen.note("stopped")
        elif not utterance.speech.answer.finished:
            self._screen.note("the answer goes on: max_new_tokens or max_length ended it")

    def _reset(self, _text: str) -> None:
        self._talk.reset()

    def _system(self, text: str) -> None:
        self._talk = Conversation(text)
        self._screen.note("a new conversation" + (", with this system prompt" if text else ", without a system prompt"))

    def _regenerate(self, _text: str) -> None:
        stop = Event()
        again = self._talk.ask_again(self._model(self._choice), self._options, stop)
        if self._options.temperature == 0:
            self._screen.note("temperature is 0, so the answer is the same: /set temperature 0.7 draws others")
        self._answer(again, stop)

    def _compare(self, text: str) -> None:
        if not text:
            raise InputError(Fault("/compare", "no prompt", expected="/compare PROMPT"))
        base, stop, said = self._models.base_of(self._choice), Event(), {}
        messages = Conversation(self._talk.system).messages(text)
        for choice in (base, self._choice):
            speech = Speech(self._model(choice), messages, self._options, stop)
            with self._screen.stopping(stop), self._screen.waiting(f"{choice.name} answers"):
                said[choice.name] = "".join(speech)
        self._screen.beside(said)

    def _save(self, text: str) -> None:
        if not text:
            raise InputError(Fault("/save", "no file", expected="/save FILE.jsonl"))
        sample, empty = self._talk.sample()
        if sample is None:
            raise InputError(Fault("/save", "nothing was answered yet"))
        add_sample(Path(os.path.expanduser(text)), sample)  # noqa: PTH111 - Path's raises where there is no such user
        left_out = f"; {empty} turns without an answer left out" if empty else ""
        self._screen.note(f"added to {text}: {len(self._talk.turns) - empty} turns{left_out}")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if name not in _VALUES:
            step = did_you_mean(name, _VALUES) or ", ".join(_VALUES)
            raise InputError(Fault("/set", "no such option", got=name or "nothing", next_step=step))
        may_be_none = name in {"max_new_tokens", "repetition_penalty", "seed"}
        try:
            told: Any = None if may_be_none and value == "none" else _VALUES[name](value)
        except ValueError:
            raise InputError(Fault(name, "not a number", got=value or "nothing")) from None
        options = replace(self._options, **{name: told})
        options.check()
        self._options = options

    def _help(self, _text: str) -> None:
        width = max(map(len, self._commands))
        for name, (_, purpose) in self._commands.items():
            self._screen.note(f"{name:{width}}  {purpose}")
        told = ", ".join(f"{name} {getattr(self._options, name)}" for name in _VALUES)
        self._screen.note(f"options: {told}".replace(" None", " none"))
