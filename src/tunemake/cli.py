"""The command line: commands, printing, exit codes.

0 done, 1 a stage failed, 2 the user's input is wrong, 3 a bug of ours (with a traceback), 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tunemake.arguments import parser
from tunemake.faults import Fault, InputError, TunemakeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; give its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["xtuner"]:  # all that follows is XTuner's own
            return _xtuner(given[1:])
        options = parser().parse_args(given)
        return _COMMANDS[options.command](options)
    except TunemakeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read our output has enough
        sys.stdout = None
        return 128 + signal.SIGPIPE
    except Exception:  # noqa: BLE001 - whatever it is, it is ours
        traceback.print_exc()
        return 3


def _init(options: argparse.Namespace) -> int:
    from tunemake.commands.init import Choices, init

    choices = Choices(
        model=options.model, data=options.data, method=options.method, language=options.language,
        name=options.assistant, author=options.author, question=options.question, answer=options.answer,
    )  # fmt: skip
    ask = input if sys.stdin.isatty() and not options.yes else None
    try:
        print(*init(Path.cwd(), options.project, choices, ask), sep="\n")
    except EOFError:
        raise InputError(
            Fault("init", "no answer, so nothing was made", next_step="--yes takes the defaults")
        ) from None
    return 0


def _new(options: argparse.Namespace) -> int:
    from tunemake.commands.new import new

    print(*new(Path.cwd(), options.what, options.name, package=options.package, source=options.source), sep="\n")
    return 0


def _chat(options: argparse.Namespace) -> int:
    from tunemake.commands.chat import chat

    chat(Path.cwd(), options.what, vars(options))
    return 0


def _serve(options: argparse.Namespace) -> int:
    from tunemake.commands.serve import serve

    serve(Path.cwd(), options.names, vars(options), partial(print, flush=True))
    return 0


def _web(options: argparse.Namespace) -> int:
    from tunemake.commands.web import web

    web(Path.cwd(), options.address, options.port)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from tunemake.commands.why import told

    print(told(Path.cwd(), options.stages, everything=options.everything, machine=options.json))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from tunemake.commands.compare import page, table

    print(page(Path.cwd(), options.html) if options.html else table(Path.cwd(), machine=options.json))
    return 0


def _publish(options: argparse.Namespace) -> int:
    from tunemake.commands.publish import publish
    from tunemake.loading import load_builder

    told = {"adapter": options.adapter, "private": options.private}
    for line in publish(load_builder(Path.cwd()), options.target, options.variant, **told):
        print(line, flush=True)
    return 0


def _watch(options: argparse.Namespace) -> int:
    from tunemake.commands.watch import watch

    return watch(Path.cwd(), options.variant, partial(print, flush=True), live=sys.stderr.isatty())


def _build(options: argparse.Namespace) -> int:
    if options.dry_run:
        options.everything, options.json = True, False
        return _plan(options)
    from tunemake.commands.build import build

    return build(options.stages, gate=not options.no_gate)


def _store(options: argparse.Namespace) -> int:
    from tunemake.commands import store

    if options.what == "list":
        print(store.listed(Path.cwd(), machine=options.json))
        return 0
    if options.what == "send":
        for line in store.sent(Path.cwd()):
            print(line, flush=True)
        return 0
    lines, whole = store.verified(Path.cwd())
    print(*lines, sep="\n")
    return 0 if whole else 1


def _gc(options: argparse.Namespace) -> int:
    from tunemake.commands import store

    rules = store.rules(options.older_than, options.keep_size, work=options.work, dry_run=options.dry_run)
    for line in store.cleared(Path.cwd(), rules):
        print(line)
    return 0


def _provenance(options: argparse.Namespace) -> int:
    from tunemake.commands import provenance, reproduce

    root, machine = Path.cwd(), options.json
    say = partial(print, flush=True)
    if options.what == "attest":
        return provenance.attest(root, say, options.key, machine=machine)
    if options.what == "verify" and (options.attestation or options.public_key):
        if not (options.attestation and options.public_key):
            raise InputError(Fault("verify", "--attestation and --public-key belong together"))
        signed = options.attestation, options.public_key
        return provenance.verify_signed(root, say, options.folder, *signed, machine=machine)
    if options.what == "verify" and (options.base or options.adapter):
        if not (options.folder and options.base):
            raise InputError(Fault("verify", "a proof needs the merged model's folder and --base"))
        return provenance.verify_merge(say, options.folder, options.base, options.adapter, machine=machine)
    if options.what == "verify":
        return provenance.verify(root, say, options.folder, machine=machine)
    if options.what == "reproduce":
        return reproduce.reproduce(root, say, options.stages, options.into, machine=machine)
    return (provenance.lock if options.what == "lock" else provenance.status)(root, say, machine=machine)


def _configs(options: argparse.Namespace) -> int:
    from tunemake.commands.configs import list_configs, show_config

    for line in [show_config(Path.cwd(), options.show)] if options.show else list_configs(Path.cwd(), options.pattern):
        print(line)
    return 0


def _plugins(options: argparse.Namespace) -> int:
    from tunemake.commands.plugins import list_plugins, show_plugin

    root = Path.cwd()
    if options.name is None:
        listing = list_plugins(root, check=options.check, machine=options.json)
    else:
        listing = show_plugin(root, options.name, machine=options.json)
    print(*listing.lines, sep="\n")
    for line in [*listing.warnings, *listing.faults]:
        print(line, file=sys.stderr)
    return InputError.exit_code if listing.faults else 0


def _check(options: argparse.Namespace) -> int:
    from tunemake.commands.check import check

    text, code = check(Path.cwd(), machine=options.json)
    print(text)
    return code


def _show(options: argparse.Namespace) -> int:
    from rich.console import Console

    from tunemake.commands.show import show_data

    console = Console(highlight=False, soft_wrap=True)
    colour = console.color_system is not None and not console.no_color
    for text in show_data(Path.cwd(), options.n, options.dataset, colour=colour):
        console.print(text)
    return 0


def _xtuner(arguments: list[str]) -> int:
    command = [sys.executable, "-m", "tunemake.engines.xtuner_process", *arguments]
    return subprocess.run(command, check=False).returncode


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "build": _build, "chat": _chat, "check": _check, "compare": _compare, "configs": _configs, "gc": _gc,
    "init": _init, "new": _new, "plan": _plan, "plugins": _plugins, "provenance": _provenance, "publish": _publish,
    "serve": _serve, "show": _show, "store": _store, "watch": _watch, "web": _web,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
