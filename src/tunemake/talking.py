"""One answer of a model, shown while it is made: how it is drawn, what of it is safe to show, how it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from tunemake.contracts import Answer, Message
from tunemake.faults import Fault, InputError
from tunemake.generation import Answers

# An answer gets at least this share of the window; older turns make room for it.
_SHARE = 4
# Old tokenizers take the space before n't, 've and marks away again, once they see them.
_TAKEN_BACK = 4

# What divides scores must leave them finite; the likeliest token is certain long before.
_COLDEST, _WEAKEST = 1e-5, 0.01


@dataclass(frozen=True)
class Options:
    """How answers are drawn; the defaults are those of the tutorial's page, and greedy where temperature is 0.

    max_length: the conversation and its answer, in tokens. max_new_tokens: the answer alone; None: what max_length
    leaves. top_p: of the likeliest tokens that together have this probability. repetition_penalty: divides the scores
    of tokens that were there, as in CTRL (Keskar et al. 2019); None: what the model's folder says. seed: None draws
    another answer each time.
    """

    max_length: int = 2048
    max_new_tokens: int | None = None
    top_p: float = 0.75
    temperature: float = 0.1
    repetition_penalty: float | None = None
    seed: int | None = None

    def check(self) -> None:
        """Raise InputError with every value that is out of its range."""
        penalty = self.repetition_penalty
        rules = (
            ("max_length", self.max_length, self.max_length >= 1, "1 or more"),
            (
                "max_new_tokens",
                self.max_new_tokens,
                self.max_new_tokens is None or self.max_new_tokens >= 1,
                "1 or more",
            ),
            ("top_p", self.top_p, 0 <= self.top_p <= 1, "0 to 1"),
            ("temperature", self.temperature, 0 <= self.temperature < float("inf"), "0 or more"),
            (
                "repetition_penalty",
                penalty,
                penalty is None or _WEAKEST <= penalty < float("inf"),
                f"{_WEAKEST} or more",
            ),
            ("seed", self.seed, 0 <= (self.seed or 0) < 2**63, "0 or more"),
        )
        wrong = [
            Fault(name, "out of range", expected, str(value)) for name, value, holds, expected in rules if not holds
        ]
        if wrong:
            raise InputError(wrong)


def fitted(model: Answers, messages: Sequence[Message], options: Options) -> tuple[list[Message], int]:
    """Leave out the oldest turns until an answer has room; give what stays, and how many questions went.

    The system message and the last question stay. Raises InputError where these alone fill the window.
    """
    window = window_of(model, options)
    room = max(1, min(window // _SHARE, options.max_new_tokens or window))
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns, left_out = list(messages[len(system) :]), 0
    while len(turns) > 1 and len(model.ids_of([*system, *turns])) + room > window:
        later = [index for index, message in enumerate(turns) if message["role"] == "user" and index]
        turns = turns[later[0] :] if later else turns[-1:]
        left_out += 1
    length = len(model.ids_of([*system, *turns]))
    if length >= window:
        expected = f"fewer than {window} tokens with the system prompt"
        raise InputError(Fault("the question", "too long", expected, str(length), "a larger max_length may help"))
    return [*system, *turns], left_out


def window_of(model: Answers, options: Options) -> int:
    """Give how many tokens conversation and answer may have together, by max_length and by what the model can see."""
    sees = getattr(model.model.config, "max_position_embeddings", None)
    return min(options.max_length, sees or options.max_length)


def settled(text: str, stop_words: Sequence[str]) -> str:
    """Give the part of an unfinished answer that no later token changes.

    Its end is held back where it may be half a character, the beginning of a stop word, or space that ends the answer.
    """
    for word in stop_words:
        text = text.split(word, 1)[0]
    text = text.rstrip("\ufffd")
    begun = [size for word in stop_words for size in range(1, len(word)) if text.endswith(word[:size])]
    return text[: len(text) - max(begun, default=0)].strip()


class Speech:
    """One answer while it is made. Iterating gives its pieces, at once as they are safe; joined, they are its text.

    answer: what was said, once iterated. stopped: the Event ended it. left_out: old questions that had no room.
    The random numbers are the process's own: only one may speak at a time.
    """

    def __init__(
        self, model: Answers, messages: Sequence[Message], options: Options, stop: threading.Event | None = None
    ) -> None:
        options.check()
        self._model, self._options, self._stop = model, options, stop or threading.Event()
        messages, self.left_out = fitted(model, messages, options)
        self._given = model.ids_of(messages)
        self._ids: list[int] = []
        self._coming: SimpleQueue[list[int] | BaseException | None] = SimpleQueue()
        self._ended = threading.Event()  # a stop word was seen, or nobody listens any more
        self.answer, self.stopped = Answer("", finished=False), False

    def __iter__(self) -> Generator[str, None, None]:
        maker = threading.Thread(target=self._make, name="answer", daemon=True)
        maker.start()
        shown = ""
        try:
            while self._more():
                text = self._settled()
                if len(text) > len(shown):
                    yield text[len(shown) :]
                    shown = text
        finally:
            self._ended.set()
            maker.join()
        self.answer = self._model.answer_of(self._ids)
        self.stopped = self._stop.is_set() and not self.answer.finished
        if self.stopped:
            self.answer = Answer(settled(self._text(), self._model.template["stop_words"]), finished=False)
        if rest := self.answer.text[len(shown) :]:
            yield rest

    def _more(self) -> bool:
        """Wait for tokens and take all that came; say whether there were any. Raises what ended their making."""
        came = [self._coming.get()]
        while True:
            try:
                came.append(self._coming.get_nowait())
            except Empty:
                break
        for one in came:
            if isinstance(one, BaseException):
                raise one
            self._ids += one or []
        return None not in came

    def _text(self) -> str:
        return str(self._model.tokenizer.decode(self._ids, skip_special_tokens=True))

    def _settled(self) -> str:
        text, words = self._text(), self._model.template["stop_words"]
        if any(word in text for word in words):
            self._ended.set()
        if getattr(self._model.tokenizer, "clean_up_tokenization_spaces", False):
            text = text[:-_TAKEN_BACK]
        return settled(text, words)

    def _make(self) -> None:
        try:
            self._generate()
        except BaseException as error:  # noqa: BLE001 - whoever listens is told
            self._coming.put(error)
        self._coming.put(None)

    def _generate(self) -> None:
        import torch

        options, stops = self._options, self._model.stop_ids()
        if options.seed is not None:
            torch.manual_seed(options.seed)
        room = window_of(self._model, options) - len(self._given)
        pad = self._model.tokenizer.pad_token_id
        given = torch.tensor([self._given], device=self._model.model.device)
        with torch.no_grad():
            self._model.model.generate(
                input_ids=given, attention_mask=torch.ones_like(given), num_beams=1, eos_token_id=stops,
                max_new_tokens=min(room, options.max_new_tokens or room), streamer=_Streamer(self._coming),
                pad_token_id=pad if pad is not None else (stops or [0])[0], stopping_criteria=[self._ends],
                **_drawing(options),
            )  # fmt: skip

    def _ends(self, ids: Any, _scores: Any, **_others: Any) -> Any:
        import torch

        ended = self._ended.is_set() or self._stop.is_set()
        return torch.full((ids.shape[0],), ended, dtype=torch.bool, device=ids.device)


def _drawing(options: Options) -> dict[str, Any]:
    """Give transformers' arguments; it takes no whole numbers here."""
    drawn = options.temperature >= _COLDEST
    told: dict[str, Any] = {"do_sample": drawn, "temperature": None, "top_p": None, "top_k": None}
    if drawn:
        told |= {"temperature": float(options.temperature), "top_p": float(options.top_p)}
    if options.repetition_penalty is not None:
        told["repetition_penalty"] = float(options.repetition_penalty)
    return told


class _Streamer:
    """What transformers hands each token to; the first it hands is the prompt."""

    def __init__(self, coming: SimpleQueue[Any]) -> None:
        self._coming, self._prompt = coming, True

    def put(self, ids: Any) -> None:
        """Take tokens: a tensor."""
        if not self._prompt:
            self._coming.put(ids.reshape(-1).tolist())
        self._prompt = False

    def end(self) -> None:
        """Take the end; the thread tells it, whatever ended it."""
