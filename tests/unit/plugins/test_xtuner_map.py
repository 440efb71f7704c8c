import json

import pytest
from reading import Read, fault

from tunemake import schema
from tunemake_builtins.xtuner_map import XTunerMap, names

pytest.importorskip("xtuner")


def read(tmp_path, name, *rows, **more):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Read(XTunerMap(), tmp_path, {"map": name, "files": "a.jsonl", **more})


def test_names_are_those_of_the_mapping_and_need_no_import():
    from tunemake.cures import install_cures

    install_cures()
    from xtuner.dataset.map_fns import DATASET_FORMAT_MAPPING

    assert names() == list(DATASET_FORMAT_MAPPING)
    assert len(names()) == 20


def test_map_functions(tmp_path):
    text = "### Human: hi### Assistant: hello### Human: more?### Assistant: no"
    assert read(tmp_path, "oasst1", {"text": text}).pairs == [("hi", "hello", "more?", "no")]
    row = {"system_prompt": "s", "question": "q", "response": "r"}
    assert read(tmp_path, "openorca", row, {"question": "q"}, row).pairs == [("s", "q", "r")] * 2
    (tmp_path / "a.csv").write_text("question,answer,x\nq,a,1\n")
    made = Read(XTunerMap(), tmp_path, {"map": "law_reference", "files": "a.csv"})
    assert made.pairs[0][1:] == ("q", "a")


def test_bad_rows_and_rows_left_out(tmp_path):
    good = {"instruction": "a", "input": "b", "output": "c"}
    made = read(
        tmp_path, "alpaca", good, {"instruction": "a"}, 5, good | {"output": "<nooutput>"}, good | {"output": 7}
    )
    assert made.pairs == [("a\nb", "c")]
    assert made.bad == [
        "a.jsonl:2: map alpaca: KeyError: 'input'",
        "a.jsonl:3: a number where an object is expected",
        "a.jsonl:5: turn 2 (assistant): a number where text is expected",
    ]
    assert made.said == ["xtuner_map: 1 rows left out by the map function alpaca"]


def test_a_rows_text_is_never_evaluated(tmp_path):
    bomb = f"open({str(tmp_path / 'ran')!r}, 'w').close()"
    made = read(tmp_path, "msagent_react", {"conversations": bomb}, {"conversations": "[]"})
    assert not (tmp_path / "ran").exists()
    assert made.bad[0].startswith("a.jsonl:1: map msagent_react: ValueError: malformed node or string")
    assert made.said == ["xtuner_map: 1 rows left out by the map function msagent_react"]


def test_what_gives_no_conversations(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "once"}')
    told = fault(XTunerMap(), tmp_path, {"map": "pretrain", "files": "a.jsonl"})
    assert told.startswith('map: "pretrain" gives text to go on with, no questions and answers; expected ')
    row = {"conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "x"}]}
    assert read(tmp_path, "llava", row).bad == ["a.jsonl:1: a question about an image; expected text alone"]
    told = fault(XTunerMap(), tmp_path, {"map": "openorka", "files": "a.jsonl"})
    assert told == 'map: XTuner has no map function "openorka"; did you mean "openorca"?'
    marked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": False}]
    made = read(tmp_path, "openai", {"messages": marked})
    assert made.said == ["xtuner_map: 1 answers with a loss of false are learnt all the same"]


def test_a_folder_of_a_hub(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train.csv").write_text("question,response\nq,r\n")
    assert Read(XTunerMap(), tmp_path, {"map": "stack_exchange", "path": "d"}).pairs == [("q", "r")]


def test_files_or_path():
    for wrong in ({"map": "alpaca"}, {"map": "alpaca", "files": "a", "path": "b"}):
        assert schema.schema_faults(wrong, XTunerMap.parameters, "test")
