import json

from tunemake.json_lines import read_json_lines


def test_a_text_may_hold_any_line_end_that_json_leaves(tmp_path):
    told = [{"answer": "one\u2028two\u2029three\x85four\x0bfive"}, {"answer": "plain"}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in told)
    (tmp_path / "it.jsonl").write_text(text, "utf-8")
    assert read_json_lines(tmp_path / "it.jsonl") == told


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    (tmp_path / "it.jsonl").write_text('{"iteration": 1}\n{"iteration": 2, "sco')
    assert read_json_lines(tmp_path / "it.jsonl") == [{"iteration": 1}]
    assert read_json_lines(tmp_path / "none.jsonl") == []
