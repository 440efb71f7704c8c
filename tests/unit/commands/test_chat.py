"""tunemake chat: what a pipe gives, what the commands do, and a real session at a terminal."""

import io
import json
import os
import re
import sys
from contextlib import nullcontext

import pexpect
import pytest

import taught
from tunemake import cli
from tunemake.commands.chat import Chat
from tunemake.commands.talk_session import Session
from tunemake.model_choice import Models
from tunemake.talking import Options


@pytest.fixture(scope="module")
def project(tmp_path_factory, taught_model):
    folder = tmp_path_factory.mktemp("project")
    taught.write_project(folder, taught_model)
    return folder


@pytest.fixture
def piped(project, monkeypatch, capsys):
    """Give what `tunemake chat` writes and how it ends, for lines on its standard input."""

    def run(text, *arguments):
        monkeypatch.chdir(project)
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        code = cli.main(["chat", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_pipe_gets_the_answers_alone(piped):
    assert piped("你是谁？\n\nWho are you?\n") == (0, "我是小木。🌲\nI am Tiny.\n", "")


@pytest.mark.parametrize("arguments", [["--base"], ["default", "--base"], ["build/base/tiny/model"]])
def test_the_base_model(piped, arguments):
    assert piped("你是谁？\n", *arguments) == (0, "基座。\n", "")


def test_base_and_tuned_beside_each_other(piped):
    assert piped("/compare 你是谁？\n") == (0, "基座。\n我是小木。🌲\n", "")
    code, out, err = piped("/compare x\n", "--base")
    assert (code, out) == (2, "")
    assert err == "base: no base model to compare it with; choose a trained model\n"


def test_a_failed_gate_is_told(piped, project):
    gate = project / "build/default/gate/gate.json"
    gate.parent.mkdir()
    gate.write_text('{"passed": false}')
    told = "default: this model failed its gate; doit gate says why\n"
    try:
        assert piped("") == (0, "", told)
        assert piped("", "build/default/merged")[2] == told.replace("default", "build/default/merged", 1)
        assert piped("", "--base") == (0, "", "")
        gate.write_text('{"passed": true}')
        assert piped("") == (0, "", "")
    finally:
        gate.unlink()
        gate.parent.rmdir()


@pytest.mark.parametrize(
    ("text", "arguments", "told"),
    [
        ("/rest\n", [], '/rest: no such command; did you mean "/reset"?'),
        (
            "/x\n",
            [],
            "/x: no such command; /help shows those that are there",
        ),
        ("", ["--temperature", "-1"], "temperature: out of range; expected 0 or more, got -1.0"),
        ("", ["--checkpoint", "7"], "7: no such checkpoint; got kept: none; run doit train"),
        ("", ["defalt"], 'defalt: no model here; did you mean "default"?'),
        ("/regenerate\n", [], "/regenerate: nothing was asked yet"),
        ("/save x.jsonl\n", [], "/save: nothing was answered yet"),
        ("/compare\n", [], "/compare: no prompt; expected /compare PROMPT"),
        ("/set temperatur 1\n", [], '/set: no such option; got temperatur; did you mean "temperature"?'),
        ("/set top_p none\n", [], "top_p: not a number; got none"),
        ("/set top_p 2\n", [], "top_p: out of range; expected 0 to 1, got 2.0"),
        (
            "Who?\n",
            ["--max-length", "9"],
            "the question: too long; expected fewer than 9 tokens with the system prompt",
        ),
    ],
)
def test_what_is_wrong_is_one_line(piped, text, arguments, told):
    code, _, err = piped(text, *arguments)
    assert code == 2
    assert err.startswith(told)
    assert len(err.splitlines()) == 1


class Heard:
    """A screen that keeps what it shows."""

    attended = True

    def __init__(self):
        self.said, self.notes, self.refused, self.compared = [], [], [], None
        self.stop_at = None

    def say(self, pieces, name):
        text = ""
        for piece in pieces:
            text += piece
            if self.stop_at and len(text) >= self.stop_at:
                self.stop.set()
        self.said.append((name, text))

    def beside(self, answers):
        self.compared = answers

    def note(self, text):
        self.notes.append(text)

    def refuse(self, error):
        self.refused.append(str(error))

    def waiting(self, text):
        return nullcontext(text)

    def stopping(self, stop):
        self.stop = stop
        return nullcontext()


@pytest.fixture
def session(project):
    screen, models = Heard(), Models(project)
    held = Session(models, models.choose(), Options(temperature=0, max_new_tokens=60), screen, "")
    held.open()
    screen.notes.clear()
    return held, screen


def test_one_is_told_how_xtuner_talks_to_it(project):
    screen, models = Heard(), Models(project)
    Session(models, models.choose(), Options(), screen, "").open()
    command = "tunemake xtuner chat build/default/merged --prompt-template internlm2_chat --torch-dtype auto"
    assert screen.notes == [f"XTuner's own chat talks to this model too: {command}"]


def test_a_conversation_is_saved_as_a_sample(session, tmp_path):
    held, screen = session
    for line in ("Who are you?", "你是谁？", f"/save {tmp_path / 'a.jsonl'}", "/reset", "你是谁？"):
        held.take(line)
    held.take(f"/save {tmp_path / 'a.jsonl'}")
    lines = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["messages"] for line in lines] == [
        taught.conversation("Who are you?", "你是谁？"), taught.conversation("你是谁？"),
    ]  # fmt: skip
    assert screen.notes == [f"added to {tmp_path / 'a.jsonl'}: {turns} turns" for turns in (2, 1)]
    held.take("/save notes.txt")
    assert screen.refused == ["notes.txt: not a name for samples; expected a file that ends in .jsonl"]


def test_a_system_prompt_begins_anew_and_is_saved(session, tmp_path):
    held, screen = session
    for line in ("Who are you?", "/system Be kind.", "你是谁？", f"/save {tmp_path / 'a.jsonl'}"):
        held.take(line)
    roles = [message["role"] for message in json.loads((tmp_path / "a.jsonl").read_text())["messages"]]
    assert roles == ["system", "user", "assistant"]
    assert screen.notes[0] == "a new conversation, with this system prompt"


def test_an_answer_is_made_anew(session):
    held, screen = session
    held.take("你是谁？")
    held.take("/regenerate")
    assert screen.said == [("default", "我是小木。🌲")] * 2
    assert screen.notes == ["temperature is 0, so the answer is the same: /set temperature 0.7 draws others"]


def test_an_answer_is_stopped_and_the_conversation_goes_on(session):
    held, screen = session
    held.take("/set max_new_tokens none")
    held.take("/set max_length 8000")
    screen.stop_at = 3
    held.take(taught.ENDLESS)
    screen.stop_at = None
    held.take("你是谁？")
    assert screen.notes == ["stopped"]
    assert 0 < len(screen.said[0][1]) < 4000
    assert len(screen.said) == 2


def test_an_answer_that_its_length_ended_is_told(session):
    held, screen = session
    held.take("/set max_new_tokens 4")
    held.take("Who are you?")
    assert screen.said == [("default", "I am")]
    assert screen.notes == ["the answer goes on: max_new_tokens or max_length ended it"]


def test_old_turns_that_have_no_room_are_told(session):
    held, screen = session
    held.take("/set max_length 120")
    for _ in range(4):
        held.take("Who are you?")
    assert screen.notes[-1] == "no room for the whole conversation: 2 oldest turns left out"


def test_help_names_every_command_and_option(session):
    held, screen = session
    held.take("/help")
    told = "\n".join(screen.notes)
    for word in (*held._commands, "temperature 0", "seed none", "max_length 2048"):
        assert word in told


@pytest.fixture
def terminal(project):
    """A real terminal of 60 columns, with `tunemake chat` in it."""
    (project / "build/.cache").mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    environment |= {"LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1", "PROMPT_TOOLKIT_NO_CPR": "1", "NO_COLOR": "1"}
    child = pexpect.spawn(
        sys.executable, ["-m", "tunemake.cli", "chat"], cwd=str(project), env=environment, encoding="utf-8",
        dimensions=(30, 60), timeout=30,
    )  # fmt: skip
    yield child
    child.close(force=True)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of forkpty:DeprecationWarning")
def test_a_session_at_a_terminal(terminal):
    def entered(text, *expected):
        terminal.send(text)
        for one in expected:
            terminal.expect_exact(one)

    entered("Who are you?\r", "default ›", "I am Tiny.")
    entered("你是谁？\r", "default ›", "我是小木。🌲")
    entered("/compare 你是谁？\r", "基座。", "我是小木。🌲")
    entered("\x1b[200~one\ntwo 你\x1b[201~", "two 你")  # pasted
    entered("\x03/set max_length 8000\r", "max_length 8000")  # Ctrl-C drops what was typed
    entered("/set max_new_tokens none\r", "max_new_tokens none")
    entered("/system\r", "without a system prompt")
    entered("Sing!\r", "default ›", "la la la")
    entered("\x03", "stopped")
    entered("/system\r", "without a system prompt", "you ›")
    entered("\x1b[A", "/system")  # from the history
    entered("\x1b[A", "Sing!")
    entered("\r", "default ›", "la la la")
    entered("\x03", "stopped")
    entered("\x04")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0


def test_doit_has_the_same_command(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    command = Chat()
    monkeypatch.setattr(sys, "stdin", io.StringIO("你是谁？\n"))
    values, names = command.cmdparser.parse(["--base", "--max-new-tokens=40", "default"])
    assert command.execute(values, names) == 0
    assert capsys.readouterr().out == "基座。\n"
    values, names = command.cmdparser.parse(["--temperature=-1"])
    with pytest.raises(SystemExit, match=r"^2$"):
        command.execute(values, names)
    assert capsys.readouterr().err.startswith("ERROR: temperature: out of range")


@pytest.mark.parametrize("file", ["~nobody-of-this-name/x.jsonl", "a\0b.jsonl", f"{'a' * 300}.jsonl"])
def test_a_file_that_cannot_be_told_is_a_line(piped, file):
    code, out, err = piped(f"你是谁？\n/save {file}\n")
    assert (code, out) == (2, "我是小木。🌲\n")
    assert re.fullmatch(r".*\.jsonl: cannot be written: .+\n", err)


def test_a_name_that_no_folder_can_have(piped):
    assert piped("", "a" * 300)[::2] == (2, f"{'a' * 300}: no model here; name a variant, or a model's folder\n")
