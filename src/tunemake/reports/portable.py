"""What of a project's values may be shown to anyone: no place of this machine, no secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from tunemake.models import parse_source

HIDDEN = "(not shown)"
_SECRET = re.compile(
    r"(^|_)(token|secret|password|passwd|passphrase|credential|auth|authorization|bearer|cookie|(api|access|private)_?key)"
    r"s?($|_)"
)
_COUNTS = re.compile(r"(^|_)(max|min|new|stop|special|pad|eos|bos|num|n)_(\w+_)?tokens?$")  # how many, or which words
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[-. ]+")
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@]+@")
_QUERY = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s?#]+)[?#]\S*")
# A path begins a text or follows what ends a word: "and/or" and a URL's own path are none.
_PATH = re.compile(r"(?:(?<![\w/.:~])|(?<=\b[A-Za-z]:)|(?<=\bfile:))(?:file://)?~?(?:/[^\s/'\"`,;:()<>|]+){2,}/?")


def portable(value: Any, name: str = "") -> Any:
    """Give a value with absolute paths cut to their last part, URLs without user and query, and secrets left out."""
    if isinstance(value, Mapping):
        return {key: portable(item, str(key)) for key, item in value.items()}
    words = _HUMP.sub("_", name).lower()
    if _SECRET.search(words) and not _COUNTS.search(words) and value is not None:
        return HIDDEN
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    return _text(value) if isinstance(value, str) else value


def base_source(source: str) -> str:
    """Give a base model's source; of a folder its name alone."""
    if parse_source(source).kind == "folder":
        return PurePosixPath(source).name or "model"
    return str(portable(source))


def hub_name(source: str) -> str | None:
    """Give org/name of a base model that is on Hugging Face's hub; None for any other."""
    told = parse_source(source)
    return source.removeprefix("hf:").partition("@")[0] if told.kind == "hf" else None


def _text(text: str) -> str:
    without = _QUERY.sub(r"\1", _USER.sub(r"\1", text))
    return _PATH.sub(lambda found: PurePosixPath(found[0].removeprefix("file://")).name, without)
