"""A conversation: its system prompt and its turns, what a model is given of them, and the sample that they make."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

from tunemake.contracts import Message, Sample
from tunemake.faults import Fault, InputError, one_line
from tunemake.generation import Answers
from tunemake.talking import Options, Speech

SUFFIX = ".jsonl"


@dataclass
class Conversation:
    """What was said so far. system: the system prompt, or "". turns: questions with their answers."""

    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)
    _again: int = 0  # how often the last question was answered anew

    def ask(self, model: Answers, question: str, options: Options, stop: Event) -> Utterance:
        """Put a question; what is said, even when stopped, becomes the next turn once it is iterated."""
        self._again = 0
        return Utterance(self, question, Speech(model, self.messages(question), options, stop))

    def ask_again(self, model: Answers, options: Options, stop: Event) -> Utterance:
        """Have the last question answered anew: with the next seed, where there is one. Raises InputError."""
        if not self.turns:
            raise InputError(Fault("/regenerate", "nothing was asked yet"))
        self._again += 1
        if options.seed is not None:
            options = replace(options, seed=options.seed + self._again)
        last = self.turns[-1]
        earlier = Conversation(self.system, self.turns[:-1])
        speech = Speech(model, earlier.messages(last[0]), options, stop)
        return Utterance(self, last[0], speech, instead=True)

    def reset(self) -> None:
        """Forget the turns; the system prompt stays."""
        self.turns.clear()

    def messages(self, question: str | None = None) -> list[Message]:
        """Give all as messages, and a question without an answer at their end."""
        told: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for asked, answer in self.turns:
            told += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        return told if question is None else [*told, {"role": "user", "content": question}]

    def sample(self) -> tuple[Sample | None, int]:
        """Give the conversation to learn from, or None where there is none; and how many turns had no answer.

        These are left out: a model can learn nothing from an empty answer.
        """
        whole = Conversation(self.system, [turn for turn in self.turns if turn[1]])
        return {"messages": whole.messages()} if whole.turns else None, len(self.turns) - len(whole.turns)


class Utterance:
    """An answer of a conversation while it is made; iterating gives its pieces. speech: what it is told by.

    Whoever closes the iterator has heard enough: what was said until then is the answer.
    """

    def __init__(self, conversation: Conversation, question: str, speech: Speech, *, instead: bool = False) -> None:
        self._conversation, self._question, self.speech, self._instead = conversation, question, speech, instead

    def __iter__(self) -> Generator[str, None, None]:
        said = ""
        try:
            with closing(iter(self.speech)) as pieces:
                for piece in pieces:
                    said += piece
                    yield piece
        except GeneratorExit:
            self._keep(said)
            raise
        self._keep(self.speech.answer.text)

    def _keep(self, answer: str) -> None:
        if self._instead:
            self._conversation.turns.pop()
        self._conversation.turns.append((self._question, answer))


def sample_line(sample: Sample) -> bytes:
    """Give a sample as a line of JSON, which the `messages` generator reads."""
    from orjson import dumps

    return dumps(sample) + b"\n"


def add_sample(path: Path, sample: Sample) -> None:
    """Add a sample to a .jsonl file, which is made where it is not there. Raises InputError."""
    if path.suffix != SUFFIX:
        raise InputError(Fault(one_line(str(path)), "not a name for samples", expected=f"a file that ends in {SUFFIX}"))
    try:
        with path.open("ab") as file:
            file.write(sample_line(sample))
    except (OSError, ValueError) as error:  # a zero byte is no OSError
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(Fault(one_line(str(path)), f"cannot be written: {why}")) from None


def harmless(text: str) -> str:
    """Give an answer as a terminal may have it: nothing in it but line ends and tabs steers one."""
    lines = text.split("\n")
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in lines)
