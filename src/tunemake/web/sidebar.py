"""The page's side: which model, its system prompt, how answers are drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from tunemake.model_choice import Choice
from tunemake.talking import Options

VIEWS = ("Chat", "Compare", "Report")


@dataclass(frozen=True)
class Settings:
    """What is chosen there. view: one of VIEWS."""

    view: str
    choice: Choice
    options: Options
    system: str


def settings(choices: list[Choice], *, busy: bool) -> Settings:
    """Draw it, and give what is chosen. busy: an answer is being made, so nothing can be changed."""
    side = st.sidebar
    view = side.segmented_control(
        "view", VIEWS, default=VIEWS[0], required=True, key="view", label_visibility="collapsed", disabled=busy
    )
    names = {choice.name: choice for choice in choices}
    choice = names[side.selectbox("Model", names, key="model", disabled=busy)]
    system = side.text_area(
        "System prompt", key="system", disabled=busy, placeholder="none", height=80,
        help="told to the model before the first question",
    )  # fmt: skip
    return Settings(str(view), choice, _options(choice, busy=busy), system.strip())


def _options(choice: Choice, *, busy: bool) -> Options:
    side = st.sidebar
    length = side.slider(
        "Max length", 8, 32768, 2048, step=8, key="max_length", disabled=busy,
        help="the conversation and its answer, in tokens; the oldest turns make room",
    )  # fmt: skip
    top_p = side.slider("Top P", 0.0, 1.0, 0.75, step=0.01, key="top_p", disabled=busy)
    temperature = side.slider(
        "Temperature", 0.0, 1.0, 0.1, step=0.01, key="temperature", disabled=busy, help="0: always the likeliest token"
    )
    penalty = side.slider(
        "Repetition penalty", 1.0, 2.0, _own_penalty(choice.folder), step=0.01, key="penalty", disabled=busy
    )
    seed = side.number_input(
        "Seed", 0, None, None, step=1, key="seed", disabled=busy, placeholder="another each time",
        help="the same seed draws the same answer",
    )  # fmt: skip
    return Options(
        max_length=length, top_p=top_p, temperature=temperature, repetition_penalty=penalty,
        seed=None if seed is None else int(seed),
    )  # fmt: skip


def _own_penalty(folder: Path) -> float:
    """Give what the model's folder says, within the slider."""
    file = folder / "generation_config.json"
    told = json.loads(file.read_text("utf-8")).get("repetition_penalty") if file.exists() else None
    return min(2.0, max(1.0, float(told or 1.0)))
