import json

import pytest

from tunemake.faults import SampleError
from tunemake.stages import Job
from tunemake.stages.dataset import run


def made(tmp_path, parts, on_bad="skip", **more):
    (tmp_path / "qa.csv").write_text("question,answer\na,b\nc,\nd,e\n,f\n", "utf-8")
    work = tmp_path / "work"
    work.mkdir()
    parameters = {"parts": parts, **more}
    decides = {"generator": "mix", "parameters": parameters, "on_bad": on_bad, "seed": 1}
    job = Job(tmp_path, work, decides, {"name": "x", "plugins": []}, {})
    return run(job), work


def part(count, **more):
    return {"generator": "csv_qa", "parameters": {"files": "qa.csv", **more}, "count": count}


def test_a_part_that_is_begun_again_tells_its_bad_rows_once(tmp_path):
    facts, work = made(tmp_path, [part(9)], when_dry="repeat")
    assert (facts["samples"], facts["rejected"]) == (9, 2)
    rejects = [json.loads(line)["reasons"] for line in (work / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert [reason.partition("qa.csv:")[2][:1] for (reason,) in rejects] == ["3", "5"]


def test_two_parts_tell_the_bad_rows_of_each(tmp_path):
    facts, _ = made(tmp_path, [part(2), part(2, system="s")])
    assert facts["rejected"] == 2


def test_bad_rows_end_a_build_that_does_not_skip_them(tmp_path):
    with pytest.raises(SampleError, match="2 bad rows in all"):
        made(tmp_path, [part(9)], on_bad="error", when_dry="repeat")
