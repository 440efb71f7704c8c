"""tunemake web: what it says and refuses before the page is served."""

import socket

import pytest

import taught
from tunemake import cli
from tunemake.commands import web


@pytest.fixture
def served(tmp_path, monkeypatch, capsys):
    """Give how `tunemake web` ends, what it says, and with what it would serve the page."""
    (tmp_path / "project.toml").write_text(taught.PROJECT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    begun = []
    monkeypatch.setattr(web.os, "execve", lambda _program, command, environment: begun.append((command, environment)))

    def run(*arguments):
        begun.clear()
        code = cli.main(["web", *arguments])
        return code, *capsys.readouterr(), begun

    return run


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def test_it_is_served_here_alone_and_tells_nobody(served):
    port = free_port()
    code, out, err, ((command, environment),) = served("--port", port)
    assert (code, out, err) == (0, f"http://127.0.0.1:{port}\n", "")
    for option in ("server.address=127.0.0.1", f"server.port={port}", "server.headless=true"):
        assert f"--{option}" in command
    assert "--browser.gatherUsageStats=false" in command
    assert environment["GOMP_SPINCOUNT"]


@pytest.mark.parametrize(("port_there", "told"), [("22", ""), ("2222", " -p 2222")])
def test_over_ssh_one_is_told_the_way(served, monkeypatch, port_there, told):
    monkeypatch.setenv("SSH_CONNECTION", f"192.0.2.1 50000 192.0.2.7 {port_there}")
    monkeypatch.setattr(web.getpass, "getuser", lambda: "mu")
    port = free_port()
    line = served("--port", port)[1].splitlines()[1]
    assert line == f"from the machine you sit at: ssh -CN -L {port}:127.0.0.1:{port} mu@192.0.2.7{told}"


def test_a_port_that_is_taken_is_told(served):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        code, out, err, begun = served("--port", port)
    assert (code, out, begun) == (2, "", [])
    assert err == f"127.0.0.1:{port}: cannot be served on; got Address already in use; choose another by --port\n"
    assert served("--port", "70000")[0] == 2


def test_without_streamlit_one_is_told_what_to_install(served, monkeypatch):
    monkeypatch.setattr(web, "find_spec", lambda _name: None)
    assert served()[::2] == (2, "web: Streamlit is not installed; pip install 'tunemake[web]'\n")


def test_without_a_project_nothing_is_served(served, tmp_path):
    (tmp_path / "project.toml").unlink()
    code, _, err, begun = served()
    assert (code, begun) == (2, [])
    assert err.startswith("project.toml: not found")


@pytest.mark.usefixtures("served")
def test_doit_has_the_same_command(monkeypatch, capsys):
    monkeypatch.setattr(web.os, "execve", lambda *_told: None)
    command = web.Web()
    values, names = command.cmdparser.parse([f"--port={free_port()}"])
    assert command.execute(values, names) == 0
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
    values, names = command.cmdparser.parse(["--port=70000"])
    with pytest.raises(SystemExit, match=r"^2$"):
        command.execute(values, names)
    assert capsys.readouterr().err.startswith("ERROR: 127.0.0.1:70000: cannot be served on")
