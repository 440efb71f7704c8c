"""The page's comparison: what base and tuned model answer to one prompt, side by side."""

from __future__ import annotations

import streamlit as st

from tunemake.conversation import Conversation
from tunemake.model_choice import Choice, Models
from tunemake.talking import Speech
from tunemake.web.answers import copy_button, loaded, markdown, show, stop_button, waiting
from tunemake.web.sidebar import Settings
from tunemake.web.state import hall, state


def compare_view(models: Models, chosen: Settings) -> None:
    """Draw it, and answer what waits. Raises InputError where the model chosen has no base to be compared with."""
    now, pair = state(), (models.base_of(chosen.choice), chosen.choice)
    if now.busy:
        stop_button()
    st.chat_input("One prompt for both", key="prompt", on_submit=_compare, disabled=now.busy)
    if now.to_compare is None:
        if now.compared:
            _shown(now.compared)
        else:
            st.caption(f"A prompt is answered by {pair[0].name} and {pair[1].name}, without the conversation.")
        return
    _answer(pair, now.to_compare, chosen)


def _compare() -> None:
    asked = str(st.session_state["prompt"]).strip()
    state().to_compare = asked or None


def _shown(answers: dict[str, str]) -> None:
    st.markdown(f"**{markdown(answers['prompt'])}**")
    names = [name for name in answers if name != "prompt"]
    for name, column in zip(names, st.columns(len(names)), strict=True):
        with column.container(border=True):
            st.caption(name)
            st.markdown(markdown(answers[name]) or "*no answer*")
            copy_button(answers[name])


def _answer(pair: tuple[Choice, Choice], prompt: str, chosen: Settings) -> None:
    now = state()
    now.compared = {"prompt": prompt}
    st.markdown(f"**{markdown(prompt)}**")
    places = []
    for choice, column in zip(pair, st.columns(2), strict=True):
        with column.container(border=True):
            st.caption(choice.name)
            places.append(st.empty())
    messages = Conversation(chosen.system).messages(prompt)
    try:
        with hall().turn(lambda: waiting(places[0])):
            for choice, place in zip(pair, places, strict=True):
                speech = Speech(loaded(choice, place), messages, chosen.options)
                now.compared[choice.name] = show(place, iter(speech))
    finally:
        now.to_compare = None
