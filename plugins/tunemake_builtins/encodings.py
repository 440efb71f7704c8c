"""Encodings of text files: what one is, where one does not hold, and what else it may be."""

from __future__ import annotations

import codecs
import difflib
import io
from encodings.aliases import aliases
from pathlib import Path

from tunemake.contracts import GeneratorError

_CHUNK = 1 << 20
_AROUND = 1 << 15  # bytes on both sides of a fault that tell what the encoding is
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# Those that tables of text come in; of more, short texts tell nothing.
_LIKELY = [
    "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "koi8_r",
    "utf_16_le", "utf_16_be",
]  # fmt: skip


def encoding_of(path: Path, told: str, asked: str) -> str:
    """Give the codec for a file whose encoding is asked for by name, or is to be found out ("auto").

    A byte order mark goes before either. Raises GeneratorError where there is no such encoding.
    """
    with path.open("rb") as file:
        start = file.read(3)
    marked = next((codec for mark, codec in _MARKS.items() if start.startswith(mark)), None)
    if asked == "auto":
        return marked or _found_out(path, told)
    try:
        codec = codecs.lookup(asked).name
        io.TextIOWrapper(io.BytesIO(), codec)
    except (LookupError, ValueError) as error:
        close = difflib.get_close_matches(asked.lower(), {*aliases, *aliases.values(), "utf-8"}, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        raise GeneratorError(f'encoding: "{asked}" is no encoding of text{hint}') from error
    # UTF-32 opens with UTF-16's mark.
    return codec if marked is None or codec.startswith("utf-32") else marked


def undecodable(path: Path, told: str, encoding: str) -> GeneratorError:
    """Give the error for a file that its encoding does not hold for, with the place and what else it may be."""
    found = _fault(path, encoding)
    assert found is not None
    byte, line = found
    likely = _likely(path, byte)
    hint = f'; it may be {likely}: set encoding = "{likely}"' if likely else ""
    return GeneratorError(f"{told}:{line}: not {encoding.removesuffix('-sig')} at byte {byte + 1} of the file{hint}")


def _found_out(path: Path, told: str) -> str:
    fault = _fault(path, "utf-8")
    if fault is None:
        return "utf-8"
    likely = _likely(path, fault[0])
    if likely is None:
        raise GeneratorError(f"{told}:{fault[1]}: not utf-8, and its encoding cannot be told; set encoding")
    return likely


def _fault(path: Path, encoding: str) -> tuple[int, int] | None:
    """Give the first byte that an encoding does not hold for, and its line; None where it holds for all."""
    decoder = codecs.getincrementaldecoder(encoding)()
    done, line = 0, 1
    with path.open("rb") as file:
        while True:
            data = file.read(_CHUNK)
            waiting = decoder.getstate()[0]
            try:
                line += decoder.decode(data, final=not data).count("\n")
            except UnicodeDecodeError as error:
                good = error.object[: error.start]
                return done - len(waiting) + error.start, line + good.count(b"\n")
            except UnicodeError:
                return done - len(waiting), line
            if not data:
                return None
            done += len(data)


def _likely(path: Path, byte: int) -> str | None:
    """Tell the encoding of the lines around a byte, as far as it can be told."""
    from charset_normalizer import from_bytes

    with path.open("rb") as file:
        start = max(0, byte - _AROUND)
        file.seek(start)
        around = file.read(2 * _AROUND)
    if start:
        around = around[around.find(b"\n") + 1 :]
    if len(around) == 2 * _AROUND:
        around = around[: around.rfind(b"\n") + 1] or around
    if b"\0" not in around:  # lines of ASCII alone tell nothing
        around = b"".join(line for line in around.splitlines(keepends=True) if not line.isascii()) or around
    best = from_bytes(around, cp_isolation=_LIKELY).best()
    if best is None:
        return None
    return best.encoding.replace("_", "-") if best.encoding.startswith("utf") else best.encoding
