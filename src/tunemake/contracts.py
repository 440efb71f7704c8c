"""What a plugin author implements: dataset generators, prompt templates and probes. Imports nothing of tunemake's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, runtime_checkable


class Message(TypedDict):
    """One turn of a conversation, as in OpenAI's chat format."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sample(TypedDict):
    """One conversation to learn from; it has at least one assistant turn."""

    messages: list[Message]


class Answer(NamedTuple):
    """What a model says. finished: False where it would have gone on beyond max_new_tokens."""

    text: str
    finished: bool


class BaseModelAnswers(Protocol):
    """The base model, as a generator with `needs = ("base",)` is given it."""

    def answer(self, conversations: Iterable[Sequence[Message]], max_new_tokens: int) -> Iterator[Answer]:
        """Give the greedy answer to each conversation, in order, by the project's own prompt template.

        The answers come batch by batch; whoever stops asking saves the rest of the work.
        """
        ...


class GeneratorError(Exception):
    """What a generator raises where its files or its parameters are wrong; the text is the line that the user reads."""


def _silent(*_: object) -> None:
    """Take a report and show nothing."""


def _refuse(place: str, reason: str, row: object = None) -> None:  # noqa: ARG001 - the row is for those who keep it
    """Take no bad row."""
    raise GeneratorError(f"{place}: {reason}")


def _alone(name: str, parameters: Mapping[str, Any]) -> Iterator[Sample]:  # noqa: ARG001
    """Offer no other generators."""
    raise GeneratorError(f"{name}: no other generators are at hand here")


@dataclass(frozen=True)
class Context:
    """What a generator may use beside its parameters.

    root: the project's folder; relative paths in parameters start there.
    seed: the project's seed; two runs with one seed give the same samples.
    base: the base model, for a generator with `needs = ("base",)`; else None.
    progress: call it with (done, total) during long work.
    say: call it with a line that the user should read, such as how much was left out and why.
    bad: call it with (place, reason, row) for a row that gives no sample, place being such as "qa.csv:17"; then go on
        with the next. By default of a dataset such rows end the build; under `on_bad = "skip"` they are counted and
        kept in a file.
    samples_of: the samples of another generator, by name and parameters; one that `uses` names.
    """

    root: Path
    seed: int
    base: BaseModelAnswers | None = None
    progress: Callable[[int, int], None] = field(default=_silent)
    say: Callable[[str], None] = field(default=_silent)
    bad: Callable[[str, str, object], None] = field(default=_refuse)
    samples_of: Callable[[str, Mapping[str, Any]], Iterator[Sample]] = field(default=_alone)


@runtime_checkable
class Generator(Protocol):
    """A dataset plugin (entry-point group `tunemake.datasets`): parameters in, samples out.

    summary: one line for lists.
    version: raise it when the same parameters give other samples.
    parameters: JSON Schema 2020-12 of the parameters; checked before anything runs.
    An optional `needs = ("base",)` asks for the base model; see ReadsFiles and UsesGenerators for what else it may
    have. Its module imports nothing heavy at the top: an up-to-date build may import it.
    """

    summary: str
    version: str
    parameters: Mapping[str, Any]

    def samples(self, parameters: Mapping[str, Any], context: Context) -> Iterator[Sample]:
        """Give the samples, one by one, in an order that depends on parameters, files and seed alone.

        Raises GeneratorError where it cannot go on; calls context.bad where a single row is wrong.
        """
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """A generator whose samples come from files."""

    def inputs(self, parameters: Mapping[str, Any]) -> Iterable[Path]:
        """Name the files that `samples` reads, relative to the project or absolute."""
        ...


@runtime_checkable
class UsesGenerators(Protocol):
    """A generator that takes samples from others, through context.samples_of."""

    def uses(self, parameters: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """Name the others, each with its parameters; their code, files and schemas then count as its own."""
        ...


@runtime_checkable
class Downloads(Protocol):
    """A generator whose samples may come from a hub; a check that must be quick then does not ask for them."""

    def downloads(self, parameters: Mapping[str, Any]) -> bool:
        """Say whether it would fetch anything for these parameters."""
        ...


class PromptTemplate(TypedDict, total=False):
    """A prompt template plugin (group `tunemake.prompts`): how a conversation becomes text.

    system, instruction: texts with the fields {system} and {input}; {round} is the turn's number from 1.
    suffix: what ends an answer. suffix_as_eos: the suffix is the end, no end-of-sequence token follows.
    separator: between turns. stop_words: generation ends at any of them.
    bos: the tokenizer's beginning-of-sequence token comes first (default), and again after each answer that an
    end-of-sequence token ended. from_tokenizer: the base model's own chat template says all of it.
    """

    summary: str
    system: str
    instruction: str
    suffix: str
    suffix_as_eos: bool
    separator: str
    stop_words: list[str]
    bos: bool
    from_tokenizer: bool


class Question(NamedTuple):
    """What a probe asks. reference: the answer that is right, where the project gives one."""

    prompt: str
    reference: str | None = None


class Loss(NamedTuple):
    """Negative log-likelihood of a sample's trained tokens, in nats, summed; and how many tokens those are."""

    nats: float
    tokens: int


class Score(NamedTuple):
    """What a probe finds. value: what the project's bounds hold for. parts: the same for each question, or none.

    A part beyond the bound is shown as a failing answer.
    """

    value: float
    parts: Sequence[float] = ()


class ProbeError(Exception):
    """What a probe raises where it cannot score; the text is the line that the user reads."""


class Examined(Protocol):
    """A model, as a probe meets it; what two probes ask alike is computed once.

    questions: those of the probe. root: the project's folder.
    """

    questions: Sequence[Question]
    root: Path

    def answers(self) -> Sequence[Answer]:
        """Give its greedy answer to each question, by the project's own prompt template and stop words."""
        ...

    def base_answers(self) -> Sequence[Answer]:
        """Give the base model's answers to the same questions; for a probe that needs "base"."""
        ...

    def divergences(self) -> Sequence[float]:
        """Give for each question KL(base || model) in nats, mean over the tokens of the base's answer.

        For a probe that needs "divergence".
        """
        ...

    def losses(self) -> Sequence[Loss]:
        """Give the loss of each held-out sample; for a probe that needs "held_out"."""
        ...

    def loaded(self) -> tuple[Any, Any]:
        """Give the model and the tokenizer themselves, as transformers' objects."""
        ...


@runtime_checkable
class Probe(Protocol):
    """A probe plugin (entry-point group `tunemake.probes`): what a model must be able to do, as a number.

    summary: one line for lists. version: raise it when it scores the same answers otherwise. unit: what its value is,
    such as "share of answers". parameters: JSON Schema 2020-12. needs: of "questions", "references" (each question
    has one), "base" (the base model's own answers), "divergence" (its probabilities) and "held_out" (held-out
    samples), what it asks for.
    Its module imports nothing heavy at the top.
    """

    summary: str
    version: str
    unit: str
    needs: Sequence[str]
    parameters: Mapping[str, Any]

    def score(self, parameters: Mapping[str, Any], model: Examined) -> Score:
        """Give the model's score; raises ProbeError where that cannot be done."""
        ...
