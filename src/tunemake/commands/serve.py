"""doit serve and tunemake serve: an OpenAI-compatible server for what the project built."""

from __future__ import annotations

import ipaddress
import os
import shlex
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doit.cmd_base import Command

from tunemake.commands.doit_end import ends_in_order
from tunemake.faults import Fault, InputError
from tunemake.process import SHORT_SPIN
from tunemake.project import machine_environment

if TYPE_CHECKING:  # every command's arguments are read with this one's
    from tunemake.model_choice import Choice

KEY = "TUNEMAKE_API_KEY"
_EXTRA = "pip install 'tunemake[serve,train]'"
_PORTS = range(1 << 16)


@dataclass(frozen=True)
class Option:
    """One option of the command, for both command lines. kind: what its text is made into."""

    name: str
    kind: Callable[[str], Any]
    default: Any
    help: str


OPTIONS = (
    Option("host", str, "127.0.0.1", "address to listen at (127.0.0.1); any other than this machine's needs a key"),
    Option("port", int, 8000, "port (8000); 0: a free one, which is printed"),
    Option("api-key", str, "", f"key that clients must send; better in the environment, as {KEY}"),
    Option("rows", int, 16, "answers made together (16)"),
    Option("queue", int, 64, "requests that may wait (64); more are answered 429"),
    Option("timeout", float, 300.0, "seconds that a request may take (300)"),
    Option("context", int, 0, "tokens a conversation may have (0: what the model can)"),
    Option("engine", str, "tunemake", "tunemake, or hand over to vllm or lmdeploy where that is installed"),
)


def serve(root: Path, names: Sequence[str], given: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Serve models until interrupted. names: variants or folders, by default all that is built. given: the options.

    Raises InputError for what is not built, a place that cannot be listened at, or options that are wrong.
    """
    from tunemake.model_choice import Models

    key = given["api-key"] or machine_environment().get(KEY) or None
    _check(given, key)
    choices = Models(root).to_serve(names)
    if given["engine"] != "tunemake":
        _hand_over(choices, given, key)
    # Read when torch is loaded: on a busy machine its threads would wait for each other at full speed.
    os.environ.update({**SHORT_SPIN, **machine_environment()})
    listening = _listening(given["host"], given["port"])
    with listening:
        _serve(choices, given, key, listening, say)


def other_servers(name: str, folder: Path, host: str, port: int) -> dict[str, list[str]]:
    """Give the commands by which others serve a merged model's folder under a name."""
    at = str(folder)
    return {
        "vllm": ["vllm", "serve", at, "--served-model-name", name, "--host", host, "--port", str(port)],
        "lmdeploy": [
            "lmdeploy", "serve", "api_server", at, "--model-name", name, "--server-name", host,
            "--server-port", str(port),
        ],
        "ollama": ["sh", "-c", f"echo FROM {shlex.quote(at)} > Modelfile && ollama create {shlex.quote(name)}"],
    }  # fmt: skip


def _check(given: Mapping[str, Any], key: str | None) -> None:
    faults = [
        Fault(f"--{name}", "out of range", expected=expected, got=str(given[name]))
        for name, fine, expected in (
            ("port", given["port"] in _PORTS, "0 to 65535"),
            ("rows", given["rows"] >= 1, "1 or more"),
            ("queue", given["queue"] >= 0, "0 or more"),
            ("timeout", given["timeout"] > 0, "more than 0 seconds"),
            ("context", given["context"] >= 0, "0 or more tokens"),
            ("engine", given["engine"] in {"tunemake", "vllm", "lmdeploy"}, "tunemake, vllm or lmdeploy"),
        )
        if not fine
    ]
    if key is None and not _loopback(given["host"]):
        step = f"set {KEY}, or listen at 127.0.0.1"
        faults.append(Fault(f"--host {given['host']}", "others can reach it, and no key is set", next_step=step))
    if faults:
        raise InputError(faults)


def _loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    """Listen before a model is loaded: that a port is taken is known at once."""
    made = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except (OSError, UnicodeError) as error:
        if made is not None:
            made.close()
        why = getattr(error, "strerror", None) or str(error)
        fault = Fault(f"{host}:{port}", f"cannot listen there: {why}", next_step="choose another --host or --port")
        raise InputError(fault) from None
    return made


def _serve(
    choices: Sequence[Choice], given: Mapping[str, Any], key: str | None, listening: socket.socket,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    try:
        from tunemake.serving.running import run
    except ModuleNotFoundError as error:
        raise InputError(Fault("serve", f"{error.name} is not installed", next_step=_EXTRA)) from None
    port = listening.getsockname()[1]
    named = f"[{given['host']}]" if ":" in given["host"] else given["host"]

    def ready() -> None:
        for line in _told(choices, named, port):
            say(line)

    run(choices, given, key, listening, ready)


def _told(choices: Sequence[Choice], host: str, port: int) -> Iterator[str]:
    yield f"serving {', '.join(choice.name for choice in choices)} at http://{host}:{port}/v1; Ctrl-C ends it"
    merged = next((choice for choice in choices if choice.adapter is None and choice.checkpoint is None), None)
    if merged is not None:
        yield "the same model by another server (docs/deploy.md):"
        for command in other_servers(merged.name, merged.folder, "127.0.0.1", port or 8000).values():
            yield "  " + (command[2] if command[0] == "sh" else shlex.join(command))


def _hand_over(choices: Sequence[Choice], given: Mapping[str, Any], key: str | None) -> None:
    """Become another server; returns never."""
    engine = given["engine"]
    if len(choices) > 1 or choices[0].adapter or choices[0].checkpoint:
        names = ", ".join(choice.name for choice in choices)
        raise InputError(Fault(f"--engine {engine}", "serves one merged model", got=names, next_step="name one"))
    if shutil.which(engine) is None:
        raise InputError(Fault(f"--engine {engine}", "not installed here", next_step=f"pip install {engine}"))
    command = other_servers(choices[0].name, choices[0].folder, given["host"], given["port"] or 8000)[engine]
    environment = machine_environment()
    if key is not None and engine == "vllm":
        environment["VLLM_API_KEY"] = key
    elif key is not None:
        command += ["--api-keys", key]
    os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is wanted


class Serve(Command):  # type: ignore[misc]
    """doit's command `serve`."""

    name = "serve"
    doc_purpose = "serve what is built over HTTP, as OpenAI's API does"
    doc_usage = "[VARIANT or FOLDER ...]"
    doc_description = None
    cmd_options = tuple(
        {"name": one.name, "long": one.name, "type": one.kind, "default": one.default, "help": one.help}
        for one in OPTIONS
    )

    def execute(self, opt_values: Any, pos_args: Any) -> int:
        """Serve until interrupted."""
        with ends_in_order():
            serve(Path.cwd(), pos_args, opt_values, lambda line: print(line, flush=True))  # noqa: T201 - a command prints
        return 0
