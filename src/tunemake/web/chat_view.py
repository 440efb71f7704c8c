"""The page's conversation: turns with avatars, an answer as it comes, and what can be done with it."""

from __future__ import annotations

from threading import Event

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from tunemake.conversation import sample_line
from tunemake.web.answers import AVATARS, copy_button, loaded, markdown, show, stop_button, waiting
from tunemake.web.sidebar import Settings
from tunemake.web.state import State, hall, state

_EXPORT = """The conversation as a sample, one line. In `project.toml`:
```toml
[datasets.said]
generator = "messages"
parameters = { files = ["conversation.jsonl"] }
```"""


def chat_view(chosen: Settings) -> None:
    """Draw it, and answer what waits for an answer."""
    now = state()
    if not now.talk.turns and not now.busy:
        now.talk.system = chosen.system
    if chosen.system != now.talk.system:
        st.caption("The system prompt will hold from the next conversation on: clear the history.")
    turns = now.talk.turns[:-1] if now.again else now.talk.turns
    for index, (question, answer) in enumerate(turns):
        _turn(question, answer, last=index == len(turns) - 1 and not now.busy)
    if now.busy:
        stop_button()
    st.chat_input(f"Ask {chosen.choice.name}", key="question", on_submit=_ask, disabled=now.busy, submit_mode="submit")
    if now.asked is not None or now.again:
        _answer(now, chosen)
    elif now.talk.turns:
        _below(now)


def _ask() -> None:
    asked = str(st.session_state["question"]).strip()
    state().told.clear()
    state().asked = asked or None


def _again() -> None:
    state().told.clear()
    state().again = True


def _clear() -> None:
    st.session_state["tunemake"] = State()


def _turn(question: str, answer: str, *, last: bool) -> None:
    with st.chat_message("user", avatar=AVATARS["user"]):
        st.markdown(markdown(question))
    with st.chat_message("assistant", avatar=AVATARS["assistant"]):
        st.markdown(markdown(answer) if answer else "*no answer*")
        below = st.empty()  # in the place of buttons that the last run of the page drew there
        if last:
            _buttons(below.container(), answer)


def _buttons(place: DeltaGenerator, answer: str) -> None:
    with place:
        for told in state().told:
            st.caption(told)
        with st.container(horizontal=True):
            st.button("Regenerate", key="again", icon=":material/refresh:", type="tertiary", on_click=_again)
            copy_button(answer)


def _answer(now: State, chosen: Settings) -> None:
    question = now.talk.turns[-1][0] if now.again else now.asked or ""
    with st.chat_message("user", avatar=AVATARS["user"]):
        st.markdown(markdown(question))
    with st.chat_message("assistant", avatar=AVATARS["assistant"]):
        place = st.empty()
    try:
        with hall().turn(lambda: waiting(place)):
            model, stop = loaded(chosen.choice, place), Event()
            if now.again:
                said = now.talk.ask_again(model, chosen.options, stop)
            else:
                said = now.talk.ask(model, question, chosen.options, stop)
            now.told = ["stopped"]
            show(place, iter(said))
            now.told = _remarks(said.speech.left_out, finished=said.speech.answer.finished)
    finally:
        now.asked, now.again = None, False


def _remarks(left_out: int, *, finished: bool) -> list[str]:
    told = [f"no room for the whole conversation: {left_out} oldest turns left out"] if left_out else []
    return told if finished else [*told, "the answer goes on: max length ended it"]


def _below(now: State) -> None:
    sample, empty = now.talk.sample()
    with st.container(horizontal=True):
        st.button("Clear history", key="clear", icon=":material/delete:", on_click=_clear)
        if sample is not None:
            told = f"{_EXPORT}\n\n{empty} turns without an answer are left out." if empty else _EXPORT
            st.download_button(
                "Export", sample_line(sample), "conversation.jsonl", "application/jsonl", key="export", help=told,
                icon=":material/download:", on_click="ignore",
            )  # fmt: skip
