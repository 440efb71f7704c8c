"""A model folder's own chat template: read, rendered in a sandbox, and told as a prompt template by what it renders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tunemake import prompts
from tunemake.contracts import Message
from tunemake.faults import Fault, ModelError

# Words that no chat template looks for.
_SYSTEM, _Q1, _A1, _Q2, _A2 = "Sentinelsystem", "Sentinelask", "Sentinelsay", "Sentineluser", "Sentinelend"


class RenderError(Exception):
    """A chat template refuses a conversation, or is wrong."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template with its tokenizer's special tokens: bos_token, eos_token and others, where there are."""

    source: str
    tokens: Mapping[str, str]
    tokenizer_class: str = ""

    def render(self, messages: Sequence[Message], *, ask: bool = False) -> str:
        """Give a conversation's text. ask: up to where the next answer begins. Raises RenderError."""
        try:
            made = _compiled(self.source).render(
                messages=messages, add_generation_prompt=ask, tools=None, documents=None, **self.tokens
            )
        except Exception as error:  # whatever a stranger's template does with values
            raise RenderError(f"{type(error).__name__}: {error}") from error
        return str(made)


def conversation(turns: Sequence[tuple[str, str]], system: str | None = None) -> list[Message]:
    """Give the messages of questions and answers; an empty answer ends the conversation with its question."""
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        if answer:
            messages.append({"role": "assistant", "content": answer})
    return messages


def read_chat_template(folder: Path) -> ChatTemplate:
    """Read a model folder's chat template; its source is empty where the model has none."""
    config = _read(folder / "tokenizer_config.json")
    source, file = config.get("chat_template") or "", folder / "chat_template.jinja"
    if file.exists():
        source = file.read_text("utf-8")
    if isinstance(source, list):  # several by name
        source = {entry["name"]: entry["template"] for entry in source}.get("default", "")
    told = {**_read(folder / "special_tokens_map.json"), **config}
    tokens = {key: value["content"] if isinstance(value, dict) else value for key, value in told.items()}
    tokens = {key: value for key, value in tokens.items() if key.endswith("_token") and isinstance(value, str)}
    return ChatTemplate(source, tokens, str(config.get("tokenizer_class", "")))


def resolved(template: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Give a prompt template as it is, or for `from_tokenizer` the one that a base model's chat template amounts to.

    Raises ModelError where there is none, or where a prompt template cannot say what it says.
    """
    if not template.get("from_tokenizer"):
        return dict(template)
    own = read_chat_template(folder)
    if not own.source:
        raise ModelError(_refusal("the model has no chat template of its own"))
    return derived(own)


def derived(own: ChatTemplate) -> dict[str, Any]:
    """Give the prompt template that renders what a chat template renders; ModelError where none does."""
    if "strftime_now" in own.source:
        raise ModelError(_refusal("it tells the date, and a prompt template would tell today's for ever"))
    try:
        cuts = _Cuts.of(own)
        expected = list(_expected(own, with_system=cuts.system is not None))
    except RenderError as error:
        raise ModelError(_refusal(f"it cannot be rendered: {error}")) from error
    for template, default in cuts.candidates(own):
        if all(_same(template, own, messages, text, default) for messages, text in expected):
            puts = {**template, "bos": True}  # a template's usual form, where there is none to put
            return puts if _bos(puts, own) is None else template
    raise ModelError(_refusal(cuts.why_none(own)))


@dataclass(frozen=True)
class _Cuts:
    """A conversation's text cut at its messages: what stands before, between and after them."""

    head: str
    asked: str
    between: str
    tail: str
    system: tuple[str, str] | None

    @classmethod
    def of(cls, own: ChatTemplate) -> _Cuts:
        turns = [(_Q1, _A1), (_Q2, _A2)]
        head, asked, between, again, tail = _cut(own.render(conversation(turns)), [_Q1, _A1, _Q2, _A2])
        if asked != again:
            raise ModelError(_refusal(f"its turns are unlike each other: {asked!r} and then {again!r}"))
        prompt = own.render(conversation([(_Q1, "")]), ask=True)
        if prompt != head + _Q1 + asked:
            other = prompt.partition(_Q1)[2]
            raise ModelError(_refusal(f"it asks with {other!r}, but shows past turns with {asked!r}"))
        return cls(head, asked, between, tail, _system_of(own, turns))

    def candidates(self, own: ChatTemplate) -> Iterator[tuple[dict[str, Any], str | None]]:
        """Give what prompt templates there may be, best first, each with the default system message that it lacks."""
        bos, eos = own.tokens.get("bos_token", ""), own.tokens.get("eos_token", "")
        # Where the end of an answer and the beginning of a question meet, a conversation's end shows best.
        ends = sorted(range(len(self.between) + 1), key=lambda at: (self.between[:at] != self.tail, at))
        for first in (False, True) if bos and self.head.startswith(bos) else (False,):
            for at in ends:
                end, before = self.between[:at], self.between[at:]
                head = self.head.removeprefix(bos) if first else self.head
                again = first and bool(eos) and before.startswith(bos) and eos in end
                before = before.removeprefix(bos) if again else before
                if head.endswith(before):
                    yield from self._candidate(
                        head.removesuffix(before), before, end, (bos if first else "", eos, again)
                    )

    def _candidate(
        self, extra: str, before: str, end: str, tokens: tuple[str, str, bool]
    ) -> Iterator[tuple[dict[str, Any], str | None]]:
        bos, eos, again = tokens
        suffix, separator = _ended(end, eos, again=again)
        system, default = "", None
        if self.system is not None:
            opening, closing = self.system[0].removeprefix(bos), self.system[1]
            if not closing.endswith(before):
                return
            closing = closing.removesuffix(before)
            system = opening + "{system}" + closing
            if extra.startswith(opening) and extra.endswith(closing) and len(extra) > len(opening + closing):
                default = extra[len(opening) : len(extra) - len(closing)]
        if (extra and default is None) or not (suffix or again):
            return
        stops = dict.fromkeys(word for word in (suffix.removesuffix(eos).strip(), eos) if word)
        yield {
            "system": system, "instruction": before + "{input}" + self.asked, "suffix": suffix,
            "suffix_as_eos": not again, "separator": separator, "stop_words": list(stops), "bos": bool(bos),
        }, default  # fmt: skip

    def why_none(self, own: ChatTemplate) -> str:
        """Say what about the chat template is beyond a prompt template."""
        padded = conversation([(f" {_Q1} ", f" {_A1} "), (_Q2, _A2)])
        text = own.render(padded)
        if f" {_Q1} " not in text or f" {_A1} " not in text:
            return "it strips the spaces around messages"
        if not self.between.strip():
            return "an answer has no end that could be learnt"
        return f"it begins with {self.head!r} and goes on with {self.between!r}, which depends on the place"


def _expected(own: ChatTemplate, *, with_system: bool) -> Iterator[tuple[list[Message], str]]:
    """Give conversations and the chat template's text of them, to hold a prompt template against."""
    turns = [("How are you?", " fine,\n  thanks \n"), ("  \n2 + 2? ", "4"), ("Ça va?", "你好")]
    for system in [None, " Be kind.\n"] if with_system else [None]:
        for count in range(1, len(turns) + 1):
            whole = conversation(turns[:count], system)
            yield whole, own.render(whole)
            yield whole[:-1], own.render(whole[:-1], ask=True)


def _same(
    template: Mapping[str, Any], own: ChatTemplate, messages: list[Message], text: str, default: str | None
) -> bool:
    if default is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": default}, *messages]
    made = prompts.text_of(template, messages, bos=_bos(template, own), eos=own.tokens.get("eos_token"))
    return made in {text, text + template["separator"]}  # some leave it out behind the last answer


def _bos(template: Mapping[str, Any], own: ChatTemplate) -> str | None:
    return prompts.bos_of(template, own.tokens.get("bos_token"), own.tokenizer_class)


def _ended(end: str, eos: str, *, again: bool) -> tuple[str, str]:
    """Part what stands behind an answer into what is learnt and what only separates; the token itself is neither."""
    if again:
        suffix, _, separator = end.partition(eos)
        return suffix, separator
    suffix = end[: end.rindex(eos) + len(eos)] if eos and eos in end else end.rstrip()
    return suffix, end[len(suffix) :]


def _system_of(own: ChatTemplate, turns: list[tuple[str, str]]) -> tuple[str, str] | None:
    """Give what stands before and after a system message; None where the chat template has no place for one."""
    try:
        text = own.render(conversation(turns, _SYSTEM))
    except RenderError:
        return None
    if _SYSTEM not in text:
        return None
    before, after, *_ = _cut(text, [_SYSTEM, _Q1, _A1, _Q2, _A2])
    return before, after


def _cut(text: str, words: list[str]) -> list[str]:
    parts = []
    for word in words:
        if text.count(word) != 1:
            message = "it leaves a message out, or shows one out of order or twice"
            raise ModelError(_refusal(message))
        before, _, text = text.partition(word)
        parts.append(before)
    return [*parts, text]


def _refusal(why: str) -> Fault:
    step = "name a prompt template; tunemake check says which ones fit"
    return Fault("model.prompt_template", f"from_tokenizer: {why}", next_step=step)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError as error:
        raise ModelError(Fault(path.name, f"cannot be read: {error}")) from error
    return value if isinstance(value, dict) else {}


@cache
def _compiled(source: str) -> Any:
    """Compile as transformers does: in a sandbox whose values cannot be changed, with its names and its blocks."""
    from datetime import datetime

    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block {% generation %}, which marks answers and changes no text."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 wants it so

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, *, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], autoescape=False
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # noqa: DTZ005 - as transformers
    return environment.from_string(source)
