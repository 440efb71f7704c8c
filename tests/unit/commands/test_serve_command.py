"""tunemake serve before it serves: what is wrong is told in a line, and others are handed the right command."""

import os
import socket
import subprocess
import sys

import pytest

from tunemake.cli import main
from tunemake.commands.serve import Serve, other_servers

EVERYWHERE = "0.0.0.0"  # noqa: S104 - nothing listens there


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TUNEMAKE_API_KEY", raising=False)
    return tmp_path


@pytest.fixture
def folder(here):
    """Give a folder that looks like a merged model."""
    made = here / "merged"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "tunemake.json").write_text('{"format": 1, "template": {"stop_words": []}, "files": {}}')
    return made


PROJECT = """
[project]
name = "it"
[model]
source = "models/tiny"
prompt_template = "chatml"
[datasets.one]
generator = "self_cognition"
parameters = { name = "Xiaomu", author = "a tester", samples = 2 }
[train]
steps = 1
"""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "project.toml: not found; expected a project here, or the name of a model's folder"),
        (["nowhere"], "nowhere: no model here; name a variant, or a model's folder"),
        (["--port", "70000"], "--port: out of range; expected 0 to 65535, got 70000"),
        (["--timeout", "nan"], "--timeout: out of range; expected more than 0 seconds, got nan"),
        (["--rows", "0"], "--rows: out of range; expected 1 or more, got 0"),
        (["--engine", "llama"], "--engine: out of range; expected tunemake, vllm or lmdeploy, got llama"),
        (["--host", EVERYWHERE], f"--host {EVERYWHERE}: others can reach it, and no key is set; set TUNEMAKE_API_KEY"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_fault_is_one_line(capsys, given, told):
    assert main(["serve", *given]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(told)
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_project_that_is_not_built(here, capsys):
    (here / "project.toml").write_text(PROJECT)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == "build/default/merged: no model here; run doit, or name a model's folder\n"
    with pytest.raises(SystemExit, match=r"^2$"):
        Serve().parse_execute(["--port", "0"])  # as doit calls it
    assert capsys.readouterr().err.startswith("ERROR: build/default/merged: no model here; run doit")


@pytest.mark.parametrize("host", ["a" * 80, "a..b"])
def test_a_host_that_is_no_name(here, capsys, host):
    (here / "merged").mkdir()
    (here / "merged/config.json").write_text("{}")
    (here / "merged/tunemake.json").write_text('{"format": 1, "template": {"stop_words": []}, "files": {}}')
    assert main(["serve", "merged", "--host", host, "--api-key", "x"]) == 2
    assert capsys.readouterr().err.startswith(f"{host}:8000: cannot listen there: ")


def test_two_models_of_one_name(here, capsys):
    for place in ("a", "b"):
        (here / place / "merged").mkdir(parents=True)
        (here / place / "merged/config.json").write_text("{}")
        (here / place / "merged/tunemake.json").write_text('{"format": 1, "template": {"stop_words": []}, "files": {}}')
    assert main(["serve", "a/merged", "b/merged"]) == 2
    assert capsys.readouterr().err == "merged: several models have this name; serve one of them\n"


@pytest.mark.usefixtures("folder")
def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "merged", "--port", str(port)]) == 2
    told = f"127.0.0.1:{port}: cannot listen there: Address already in use; choose another --host or --port\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("engine", ["vllm", "lmdeploy"])
def test_another_engine_takes_over(folder, engine):
    # A program of its name that says how it was called, instead of the engine, which needs a GPU.
    programs = folder.parent / "bin"
    programs.mkdir()
    program = programs / engine
    program.write_text(f'#!/bin/sh\necho "$0 $@ ${{VLLM_API_KEY}}" > {folder.parent}/called\n')
    program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path), "TUNEMAKE_API_KEY": "s3cret"}
    command = [sys.executable, "-m", "tunemake.cli", "serve", "merged", "--engine", engine, "--port", "0"]
    subprocess.run([*command, "--host", EVERYWHERE], env=environment, check=True)
    program_, *said = (folder.parent / "called").read_text().split()
    key = ["s3cret"] if engine == "vllm" else ["--api-keys", "s3cret"]
    assert program_ == str(program)
    assert said == [*other_servers("merged", folder, EVERYWHERE, 8000)[engine][1:], *key]


@pytest.mark.usefixtures("folder")
def test_an_engine_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert main(["serve", "merged", "--engine", "vllm"]) == 2
    assert capsys.readouterr().err == "--engine vllm: not installed here; pip install vllm\n"
