"""doit's own chat, serve and web, as a user of the tutorial begins and interrupts them."""

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

import taught

DODO = "from tunemake.tasks import DOIT_CONFIG, task_tunemake\n"
SING = f"{taught.ENDLESS}\n"
LONG = ("--max-length", "30000", "--max-new-tokens", "20000")


@pytest.fixture(scope="module")
def project(tmp_path_factory, taught_model):
    folder = tmp_path_factory.mktemp("project")
    taught.write_project(folder, taught_model)
    (folder / "dodo.py").write_text(DODO)
    return folder


@pytest.fixture
def doit(project):
    """Begin one of doit's commands."""
    begun, environment = [], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def begin(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "doit", *arguments], cwd=project, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def test_chat_answers_a_pipe(doit):
    assert doit("chat").communicate(f"{taught.CHINESE}\r\n\n{taught.ENGLISH}", timeout=60) == (
        f"{taught.SAYS[taught.CHINESE]}\n{taught.SAYS[taught.ENGLISH]}\n", "",
    )  # fmt: skip


def test_chat_tells_what_is_wrong_in_a_line(doit):
    process = doit("chat", "--max-new-tokens", "0")
    assert process.communicate(timeout=60) == ("", "ERROR: max_new_tokens: out of range; expected 1 or more, got 0\n")
    assert process.returncode == 2


def test_chat_is_interrupted_in_the_middle_of_an_answer(doit):
    process = doit("chat", *LONG)
    process.stdin.write(SING)
    process.stdin.flush()
    assert process.stdout.read(2) == "la"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130


def test_chat_ends_when_nobody_reads_any_more(doit):
    process = doit("chat", *LONG)
    process.stdin.write(SING)
    process.stdin.flush()
    assert process.stdout.read(2) == "la"
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == ""


def test_serve_answers_and_is_interrupted(doit):
    process = doit("serve", "--port", "0")
    url = re.search(r"http://\S+/v1", process.stdout.readline())[0]
    asked = {"model": "default", "temperature": 0, "messages": [{"role": "user", "content": taught.CHINESE}]}
    answer = httpx.post(f"{url}/chat/completions", json=asked, timeout=60).json()
    assert answer["choices"][0]["message"]["content"] == taught.SAYS[taught.CHINESE]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 130


def test_web_serves_its_page_and_is_interrupted(doit):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = doit("web", "--port", str(port))
    url = process.stdout.readline().strip()
    with httpx.Client(transport=httpx.HTTPTransport(retries=9), timeout=60) as browser:
        assert browser.get(url).status_code == 200
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in "".join(process.communicate(timeout=30))
    assert process.returncode == 0
