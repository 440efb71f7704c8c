"""The page's logic, without a browser: what is asked, shown, kept and shared."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import taught
import tunemake.web
from tunemake.conversation import Conversation
from tunemake.model_choice import Models
from tunemake.web.answers import markdown
from tunemake.web.hall import Hall
from tunemake.web.state import State

PAGE = Path(tunemake.web.__file__).with_name("page.py")


@pytest.fixture(scope="module")
def project(tmp_path_factory, taught_model):
    folder = tmp_path_factory.mktemp("project")
    taught.write_project(folder, taught_model)
    return folder


@pytest.fixture
def page(project, monkeypatch):
    monkeypatch.chdir(project)
    return opened()


def opened():
    made = AppTest.from_file(str(PAGE), default_timeout=60).run()
    assert not made.exception
    return made


def asked(page, *questions):
    for question in questions:
        page.chat_input[0].set_value(question).run()
        assert not page.exception
    return page


def said(page):
    return [message.markdown[0].value for message in page.chat_message]


def click(page, key):
    page.button(key=key).click().run()
    assert not page.exception
    return page


def test_several_turns(page):
    asked(page, "Who are you?", "你是谁？")
    assert said(page) == ["Who are you?", "I am Tiny.", "你是谁？", "我是小木。🌲"]
    assert {message.avatar for message in page.chat_message} == {":material/person:", ":material/smart_toy:"}
    assert said(click(page, "clear")) == []


def test_the_tutorials_sliders_and_their_defaults(page):
    told = {slider.key: (slider.min, slider.max, slider.value) for slider in page.slider}
    assert told == {
        "max_length": (8, 32768, 2048), "top_p": (0, 1, 0.75), "temperature": (0, 1, 0.1), "penalty": (1, 2, 1.0),
    }  # fmt: skip
    assert page.number_input(key="seed").value is None


def test_the_options_count(page):
    page.slider(key="max_length").set_value(40).run()
    asked(page, "Who are you?")
    assert said(page)[1] == "I am Tiny"
    assert [caption.value for caption in page.caption] == ["the answer goes on: max length ended it"]


def test_a_question_without_room_is_a_line_and_the_page_goes_on(page):
    page.slider(key="max_length").set_value(8).run()
    asked(page, "Who are you?")
    (told,) = [error.value for error in page.error]
    assert told.startswith("the question: too long; expected fewer than 8 tokens")
    page.slider(key="max_length").set_value(2048).run()
    assert said(asked(page, "Who are you?"))[1] == "I am Tiny."


def test_what_nobody_foresaw_is_a_line_and_the_page_goes_on(page, monkeypatch, capsys):
    def fails(*_arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Hall, "model", fails)
    asked(page, "Who are you?")
    assert [error.value for error in page.error] == [
        "the answer: RuntimeError: out of memory; the server's log has more"
    ]
    assert "Traceback" in capsys.readouterr().err
    assert not page.chat_input[0].disabled


def test_the_last_answer_is_made_anew(page):
    page.slider(key="max_length").set_value(40).run()
    asked(page, "Who are you?")
    page.slider(key="max_length").set_value(2048).run()
    assert said(click(page, "again")) == ["Who are you?", "I am Tiny."]


def test_another_model_goes_on_with_the_conversation(page):
    assert page.selectbox(key="model").options == ["default", "base"]
    asked(page, "Who are you?")
    page.selectbox(key="model").set_value("base").run()
    page.slider(key="temperature").set_value(0.0).run()
    asked(page, "你是谁？")
    assert said(page)[:2] == ["Who are you?", "I am Tiny."]
    assert len(said(page)) == 4


def test_a_system_prompt_holds_from_the_next_conversation_on(page):
    asked(page, "Who are you?")
    page.text_area(key="system").set_value("Be kind.").run()
    assert page.session_state["tunemake"].talk.system == ""
    assert "from the next conversation on" in page.caption[0].value
    click(page, "clear")
    asked(page, "Who are you?")
    assert page.session_state["tunemake"].talk.messages()[0] == {"role": "system", "content": "Be kind."}


def test_the_export_is_a_sample(page):
    asked(page, "Who are you?", "你是谁？")
    (button,) = page.download_button
    assert 'generator = "messages"' in button.help
    sample, empty = page.session_state["tunemake"].talk.sample()
    assert (json.loads(json.dumps(sample)), empty) == ({"messages": taught.conversation("Who are you?", "你是谁？")}, 0)


def test_base_and_tuned_side_by_side(page):
    page.segmented_control(key="view").set_value("Compare").run()
    asked(page, "你是谁？")
    assert [text.value for text in page.main.markdown] == ["**你是谁？**", "基座。", "我是小木。🌲"]
    assert [caption.value for caption in page.caption] == ["base", "default"]
    page.selectbox(key="model").set_value("base").run()
    assert page.error[0].value == "base: no base model to compare it with; choose a trained model"


def test_the_report_is_shown_where_there_is_one(page, project):
    page.segmented_control(key="view").set_value("Report").run()
    assert "No report" in page.info[0].value
    report = project / "build/default/report/report.html"
    report.parent.mkdir()
    report.write_text("<h1>报告</h1>")
    try:
        page.run()
        assert not page.info
        assert page.get("iframe")[0].proto.src == "data:text/html;charset=utf-8;base64,PGgxPuaKpeWRijwvaDE+"
    finally:
        shutil.rmtree(report.parent)


def test_a_failed_gate_is_told(page, project):
    gate = project / "build/default/gate/gate.json"
    gate.parent.mkdir()
    gate.write_text('{"passed": false}')
    try:
        assert [warning.value for warning in page.run().warning] == ["default: this model failed its gate."]
    finally:
        shutil.rmtree(gate.parent)


def test_without_a_model_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project.toml").write_text(taught.PROJECT)
    assert opened().info[0].value == "No model is built yet: run `doit`."


def test_a_wrong_project_is_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project.toml").write_text("[project]\nnam = 1\n")
    told = [error.value for error in opened().error]
    assert told[0].startswith("project.toml:")
    assert len(told) > 1


def test_two_sessions_share_models_and_nothing_else(page):
    asked(page, "Who are you?")
    other = asked(opened(), "你是谁？")
    assert said(page) == ["Who are you?", "I am Tiny."]
    assert said(other) == ["你是谁？", "我是小木。🌲"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![x](http://example.org/x.png)", r"\![x](http://example.org/x.png)"), ("a! [b]", "a! [b]"),
        ("costs $5 or $6", r"costs \$5 or \$6"), (":red[x] :material/home:", r"\:red[x] \:material/home:"),
        ("5:30:15", "5:30:15"), ("`$a :b[c]` $", r"`$a :b[c]` \$"), ("```\n$HOME\n", "```\n$HOME\n"),
        (r"\`![x](y)\`", r"\`\![x](y)\`"),
    ],
)  # fmt: skip
def test_markdown_loads_and_runs_nothing(text, shown):
    assert markdown(text) == shown


def test_one_waits_while_another_is_answered():
    hall, waited, order = Hall(), threading.Event(), []

    def second():
        with hall.turn(waited.set):
            order.append("second")

    with hall.turn(lambda: None):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_who_leaves_in_the_middle_gives_the_turn_back():
    hall = Hall()
    with pytest.raises(RuntimeError, match="left"), hall.turn(lambda: None):
        raise RuntimeError("left")
    with hall.turn(lambda: pytest.fail("it waited")):
        pass


def test_a_model_is_loaded_once_and_two_are_kept(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    models, hall = Models(project), Hall()
    tuned, base = models.choose(), models.choose(base=True)
    other = Models(tmp_path).choose(str(shutil.copytree(tuned.folder, tmp_path / "other")))
    first = hall.model(tuned)
    hall.model(base)
    assert hall.model(models.choose()) is first
    hall.model(other)
    assert [hall.has(choice) for choice in (tuned, base, other)] == [True, False, True]


def test_stop_before_the_first_word_keeps_the_question():
    now = State(Conversation(turns=[("Who?", "Me.")]), asked="And you?")
    now.stop()
    assert (now.talk.turns, now.told, now.busy) == ([("Who?", "Me."), ("And you?", "")], ["stopped"], False)


def test_stop_after_the_answer_changes_nothing():
    now = State(Conversation(turns=[("Who?", "Me.")]))
    now.stop()
    assert (now.talk.turns, now.told) == ([("Who?", "Me.")], [])


@pytest.mark.parametrize("waits", [{"again": True}, {"to_compare": "Who?"}])
def test_stop_takes_back_what_waits(waits):
    now = State(Conversation(turns=[("Who?", "Me.")]), **waits)
    now.stop()
    assert (now.talk.turns, now.busy) == ([("Who?", "Me.")], False)
