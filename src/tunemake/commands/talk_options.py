"""The options of chat and web, once for tunemake's command line and doit's."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from tunemake.talking import Options

_WHICH: tuple[dict[str, Any], ...] = (
    {"name": "base", "type": bool, "default": False, "help": "its base model instead"},
    {"name": "checkpoint", "type": str, "default": None, "help": "a checkpoint of its training: iter_40, 40 or last"},
)
_HOW: tuple[dict[str, Any], ...] = (
    {"name": "system", "type": str, "default": "", "help": "system prompt"},
    {"name": "max_length", "type": int, "default": 2048, "help": "conversation and answer, in tokens (2048)"},
    {"name": "max_new_tokens", "type": int, "default": 512, "help": "longest answer, in tokens (512)"},
    {"name": "top_p", "type": float, "default": 0.75, "help": "draw from the likeliest tokens that have this (0.75)"},
    {"name": "temperature", "type": float, "default": 0.0, "help": "0, the default: always the likeliest token"},
    {
        "name": "repetition_penalty",
        "type": float,
        "default": None,
        "help": "above 1 against loops; default: the model's",
    },
    {"name": "seed", "type": int, "default": None, "help": "of the drawing; default: another each time"},
)
CHAT = (*_WHICH, *_HOW)
WEB: tuple[dict[str, Any], ...] = (
    {"name": "port", "type": int, "default": 6006, "help": "where the page is served (6006)"},
    {"name": "address", "type": str, "default": "127.0.0.1", "help": "0.0.0.0 lets other machines in (127.0.0.1)"},
)


def add_to(parser: ArgumentParser, table: tuple[dict[str, Any], ...]) -> None:
    """Give a command of tunemake's the options of a table."""
    for option in table:
        flag = f"--{option['name'].replace('_', '-')}"
        if option["type"] is bool:
            parser.add_argument(flag, action="store_true", help=option["help"])
        else:
            metavar = {"checkpoint": "ITER", "system": "TEXT", "address": "ADDRESS"}.get(option["name"], "N")
            parser.add_argument(
                flag, type=option["type"], default=option["default"], help=option["help"], metavar=metavar
            )


def for_doit(table: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    """Give the table as doit's cmd_options."""
    return tuple({**option, "long": option["name"].replace("_", "-")} for option in table)


def options_of(values: Mapping[str, Any]) -> Options:
    """Give how answers are drawn. Raises InputError for what is out of range."""
    names = ("max_length", "max_new_tokens", "top_p", "temperature", "repetition_penalty", "seed")
    options = Options(**{name: values[name] for name in names})
    options.check()
    return options
