"""The models that are served: loaded once where several are adapters of one base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunemake.cures import install_cures
from tunemake.faults import Fault, InputError
from tunemake.generation import Answers
from tunemake.model_choice import Choice
from tunemake.serving.forms import ModelCard
from tunemake.serving.generation_thread import Lane


@dataclass(frozen=True)
class Served:
    """A model as a request names it.

    answers: its tokenizer and prompt template. lane: which loaded model it is, through which adapter. context: tokens
    that prompt and answer may have together. created: seconds since 1970.
    """

    answers: Answers
    lane: str
    adapter: str | None
    context: int
    stop_ids: frozenset[int]
    stop_words: tuple[str, ...]
    created: int

    def card(self, name: str) -> ModelCard:
        """Give it as /v1/models lists it."""
        return ModelCard(id=name, created=self.created)


def load(choices: Sequence[Choice], context: int | None) -> tuple[dict[str, Served], dict[str, Lane]]:
    """Load models; give them by name, and what was loaded. context: tokens a conversation may have, at most.

    Choices with an adapter are loaded once for each base. Raises ModelError or InputError.
    """
    models: dict[str, Served] = {}
    lanes: dict[str, Lane] = {}
    bases: dict[Path, Answers] = {}
    for number, choice in enumerate(choices):
        folder = choice.folder.resolve()
        if choice.adapter is None:
            answers, lane, adapter = choice.load(), choice.name, None
        else:
            # PEFT makes it a module's name, in which a variant's may not serve.
            lane, adapter = str(folder), f"adapter{number}"
            answers = bases[folder] = _with_adapter(choice, choice.adapter, adapter, bases.get(folder))
        limit = _context(answers, context)
        if lane not in lanes:
            lanes[lane] = Lane(answers.model, limit, adapted=adapter is not None)
        words, stops = tuple(answers.template["stop_words"]), frozenset(answers.stop_ids())
        created = int((choice.adapter or choice.folder).stat().st_mtime)
        models[choice.name] = Served(answers, lane, adapter, limit, stops, words, created)
    return models, lanes


def _with_adapter(choice: Choice, folder: Path, name: str, base: Answers | None) -> Answers:
    install_cures()
    from peft import PeftModel

    if base is None:
        base = Answers.load(choice.folder, choice.template, trust_remote_code=choice.trust_remote_code)
        base.model = PeftModel.from_pretrained(base.model, folder, adapter_name=name)
    else:
        base.model.load_adapter(folder, adapter_name=name)
    base.model.eval()
    return Answers(base.model, base.tokenizer, choice.template)


def _context(answers: Answers, asked: int | None) -> int:
    own = next(
        (value for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
         if isinstance(value := getattr(answers.model.config, name, None), int)), None)  # fmt: skip
    if asked is not None and own is not None and asked > own:
        raise InputError(Fault("--context", "longer than the model's", expected=f"at most {own}", got=str(asked)))
    if asked is None and own is None:
        raise InputError(Fault("--context", "the model's config does not say how long its context is", next_step=(
            "give --context TOKENS")))  # fmt: skip
    return asked or own or 0
