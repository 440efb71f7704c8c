"""The command line: arguments, printing, exit codes.

0 done, 1 a stage failed, 2 the user's input is wrong, 3 a bug of ours (with a traceback), 130 and 143 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tunemake import __version__
from tunemake.faults import Fault, InputError, TunemakeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; give its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["xtuner"]:  # all that follows is XTuner's own
            return _xtuner(given[1:])
        options = _parser().parse_args(given)
        return int(options.run(options))
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tunemake", description="make for fine-tuned models; `doit` builds")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _scaffold_commands(commands)
    _serve_command(commands)
    _talk_commands(commands)
    build = commands.add_parser("build", help="build what is stale, as `doit` does; or only say what that would be")
    build.add_argument("stages", nargs="*", metavar="STAGE", help="default: all")
    build.add_argument("--dry-run", action="store_true", help="say what would be done, and build nothing")
    build.add_argument("--no-gate", action="store_true", help="a model that fails its probes does not end the build")
    build.set_defaults(run=_build)
    for name, text in (("why", "say why each stage will be made anew"), ("plan", "say what the next build will do")):
        asked = commands.add_parser(name, help=f"{text}; builds nothing")
        asked.add_argument("stages", nargs="*", metavar="STAGE", help="default: all")
        asked.add_argument("--json", action="store_true", help="for machines")
        asked.set_defaults(run=_plan, everything=name == "plan")
    asked = commands.add_parser("check", help="tell all that can be wrong before the training, in seconds")
    asked.add_argument("--json", action="store_true", help="for machines")
    asked.set_defaults(run=_check)
    show = commands.add_parser("show", help="show samples as the model will see them, with what is trained marked")
    show.add_argument("what", choices=["data"])
    show.add_argument("-n", type=_positive, default=3, help="how many (3)", metavar="N")
    show.add_argument("--dataset", metavar="NAME", help="of this one; default: the training samples")
    show.set_defaults(run=_show)
    configs = commands.add_parser("configs", help="training configs that train.template may name")
    configs.add_argument("-p", "--pattern", default="", help="only names that hold this")
    configs.add_argument("--show", metavar="NAME", help="print this one")
    configs.set_defaults(run=_configs)
    plugins = commands.add_parser("plugins", help="dataset generators and prompt templates, or one of them")
    plugins.add_argument("name", nargs="?", metavar="NAME", help="show this one: its summary and its parameters")
    plugins.add_argument("--check", action="store_true", help="import all and tell those that are broken")
    plugins.add_argument("--json", action="store_true", help="for machines")
    plugins.set_defaults(run=_plugins)
    compare = commands.add_parser("compare", help="the variants side by side: scores, loss, time, size")
    compare.add_argument("--json", action="store_true", help="for machines")
    compare.add_argument("--html", type=Path, metavar="FILE", help="as a page, with the way to each variant's report")
    compare.set_defaults(run=_compare)
    _model_commands(commands)
    _store_commands(commands)
    _provenance_commands(commands)
    commands.add_parser("xtuner", help="XTuner's own tools with cures: train, pth_to_hf, merge, …")
    return parser


def _talk_commands(commands: Any) -> None:
    from tunemake.commands.talk_options import CHAT, WEB, add_to

    chat = commands.add_parser("chat", help="talk to a model at a terminal or through a pipe")
    chat.add_argument("what", nargs="?", metavar="MODEL", help="variant or model folder; default: the merged model")
    add_to(chat, CHAT)
    chat.set_defaults(run=_chat)
    web = commands.add_parser("web", help="serve a page to talk to the project's models on")
    add_to(web, WEB)
    web.set_defaults(run=_web)


def _scaffold_commands(commands: Any) -> None:
    init = commands.add_parser("init", help="make a project's folder, which builds as it is")
    init.add_argument("project", metavar="NAME", help="of the folder and the project")
    init.add_argument("--model", metavar="SOURCE", help="base model: a folder, hf:, modelscope: or pypi:…")
    init.add_argument("--data", metavar="FILE", help="a data file, which is copied; or self-introduction, the default")
    init.add_argument("--question", metavar="COLUMN", help="the file's column of questions; left out: found")
    init.add_argument("--answer", metavar="COLUMN", help="the file's column of answers; left out: found")
    init.add_argument("--method", metavar="METHOD", help="lora (default), qlora or full")
    init.add_argument("--language", metavar="LANGUAGE", help="of the assistant: en, zh or both (default)")
    init.add_argument("--name", metavar="NAME", help="the assistant's name", dest="assistant")
    init.add_argument("--author", metavar="NAME", help="who made it")
    init.add_argument("--yes", action="store_true", help="ask nothing at a terminal: the defaults hold")
    init.set_defaults(run=_init)
    new = commands.add_parser("new", help="make a dataset generator, prompt template or training template to edit")
    new.add_argument("what", choices=["dataset", "prompt", "template"])
    new.add_argument("name", metavar="NAME")
    new.add_argument("--package", action="store_true", help="as a package of its own, not in this project")
    new.add_argument(
        "--from", metavar="TEMPLATE", dest="source", help="training template to copy; default: the method's"
    )
    new.set_defaults(run=_new)


def _model_commands(commands: Any) -> None:
    publish = commands.add_parser("publish", help="put the merged model and its card into a folder or onto a hub")
    publish.add_argument("target", metavar="TARGET", help="a new folder, or hf:org/name (with HF_TOKEN set)")
    publish.add_argument("--variant", metavar="VARIANT", help="of this one; needed where there are several")
    publish.add_argument("--adapter", action="store_true", help="the adapter alone")
    publish.add_argument("--private", action="store_true", help="where the hub's repository is made anew, private")
    publish.set_defaults(run=_publish)
    watch = commands.add_parser("watch", help="follow a training that another terminal runs")
    watch.add_argument("variant", nargs="?", metavar="VARIANT", help="of this one; needed where several run")
    watch.set_defaults(run=_watch)


def _serve_command(commands: Any) -> None:
    from tunemake.commands.serve import OPTIONS

    serve = commands.add_parser("serve", help="serve what is built over HTTP, as OpenAI's API does")
    serve.add_argument("names", nargs="*", metavar="MODEL", help="variant or model folder; default: all that is built")
    for one in OPTIONS:
        serve.add_argument(f"--{one.name}", dest=one.name, type=one.kind, default=one.default, help=one.help)
    serve.set_defaults(run=_serve)


def _store_commands(commands: Any) -> None:
    store = commands.add_parser(
        "store", help="artifacts: list them, verify each file, or send them to the shared store"
    )
    store.add_argument("what", choices=["list", "verify", "send"])
    store.add_argument("--json", action="store_true", help="the list for machines")
    store.set_defaults(run=_store)
    gc = commands.add_parser("gc", help="remove artifacts that nothing shown needs, and what builds left behind")
    gc.add_argument("--older-than", metavar="AGE", help="only what is older: 30d, 12h, 2w")
    gc.add_argument("--keep-size", metavar="SIZE", help="only until the artifacts take no more than this: 20GB")
    gc.add_argument("--work", action="store_true", help="killed trainings too, which a build would go on with")
    gc.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    gc.set_defaults(run=_gc)


def _provenance_commands(commands: Any) -> None:
    for name, text in (
        ("lock", "write tunemake.lock: what the build was made from, and its digests; a whole build does it by itself"),
        ("verify", "read all files that the links show, or a model folder's, and compare them with what is recorded"),
        ("status", "say how tunemake.lock, build and project differ, and where the models lie"),
        ("attest", "sign what tunemake.lock says of the merged models, in in-toto's form"),
        ("reproduce", "build once more in a clean folder, and say of each stage whether it comes out equal"),
    ):
        asked = commands.add_parser(name, help=text)
        asked.add_argument("--json", action="store_true", help="for machines")
        asked.set_defaults(run=_provenance, what=name)
        if name == "verify":
            asked.add_argument("folder", nargs="?", type=Path, help="a merged model's folder, wherever it was copied")
            asked.add_argument("--base", type=Path, metavar="FOLDER", help="prove the weights by this base model, too")
            asked.add_argument("--adapter", type=Path, metavar="FOLDER", help="which is merged into that base")
            asked.add_argument("--attestation", type=Path, metavar="FILE", help="check this signed statement too")
            asked.add_argument("--public-key", type=Path, metavar="FILE", help="of who signed it, in PEM form")
        if name == "attest":
            asked.add_argument("--key", type=Path, metavar="FILE", required=True, help="private key in PEM form")
        if name == "reproduce":
            asked.add_argument("stages", nargs="*", metavar="STAGE", help="these and what they need; default: all")
            asked.add_argument("--into", type=Path, metavar="FOLDER", help="build there, and keep it")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


_positive.__name__ = "whole number above 0"  # argparse says it where the text is none


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


if __name__ == "__main__":
    sys.exit(main())
