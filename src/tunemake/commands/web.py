"""tunemake web and doit web: the page to talk to the project's models on, served on this machine."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from doit.cmd_base import Command

from tunemake.commands.doit_end import ends_in_order
from tunemake.commands.talk_options import WEB, for_doit
from tunemake.faults import Fault, InputError
from tunemake.process import SHORT_SPIN
from tunemake.project import load_variants, machine_environment

_PAGE = Path(__file__).parents[1] / "web" / "page.py"
_LOCAL = "127.0.0.1"


def web(root: Path, address: str, port: int) -> None:
    """Serve the page until it is interrupted; does not return. Raises InputError for what is wrong before."""
    if find_spec("streamlit") is None:
        raise InputError(Fault("web", "Streamlit is not installed", next_step="pip install 'tunemake[web]'"))
    load_variants(root)
    _check_free(address, port)
    environment = {**SHORT_SPIN, **machine_environment()}  # the page itself must have a core now and then
    lines = [f"http://{address}:{port}", *_tunnel(environment, port)]
    print(*lines, sep="\n", flush=True)  # noqa: T201 - a command prints
    os.chdir(root)
    os.execve(sys.executable, _command(address, port), environment)  # noqa: S606 - no shell


def _command(address: str, port: int) -> list[str]:
    told = {
        "server.address": address, "server.port": port, "server.headless": "true", "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false", "client.toolbarMode": "minimal", "runner.magicEnabled": "false",
        # A click ends the page's run at its next drawing, and only then the next begins. With fast reruns it begins
        # beside one that still has the question: Stop would have it answered again.
        "runner.fastReruns": "false",
        "global.developmentMode": "false", "logger.level": "warning", "server.showEmailPrompt": "false",
    }  # fmt: skip
    options = [f"--{name}={value}" for name, value in told.items()]
    return [sys.executable, "-m", "streamlit", "run", str(_PAGE), *options]


def _check_free(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((address, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            Fault(f"{address}:{port}", "cannot be served on", got=reason, next_step="choose another by --port")
        ) from None


def _tunnel(environment: dict[str, str], port: int) -> list[str]:
    """Give the line that brings the page to the machine that one sits at, where this one was reached by ssh."""
    told = environment.get("SSH_CONNECTION", "").split()  # address and port of there, then of here
    if len(told) != 4:  # noqa: PLR2004 - as sshd writes it
        return []
    place = f"{getpass.getuser()}@{told[2]}" + ("" if told[3] == "22" else f" -p {told[3]}")
    return [f"from the machine you sit at: ssh -CN -L {port}:{_LOCAL}:{port} {place}"]


class Web(Command):  # type: ignore[misc]
    """doit's command `web`."""

    name = "web"
    doc_purpose = "serve a page to talk to the project's models on"
    doc_usage = ""
    doc_description = None
    cmd_options = for_doit(WEB)

    def execute(self, opt_values: Any, pos_args: Sequence[str]) -> int:  # noqa: ARG002 - doit's
        """Serve it."""
        with ends_in_order():
            web(Path.cwd(), opt_values["address"], opt_values["port"])
        return 0
