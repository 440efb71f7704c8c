import json

from tunemake.reports.lineage import MOST_LINES, history, lineage


def artifact(folder, stage, inputs, outputs):
    folder.mkdir()
    record = {
        "format": 1, "fingerprint": f"{stage:f<12}", "stage": stage, "stage_version": 1, "parameters": {},
        "inputs": inputs, "outputs": {name: {"size": 10, "sha256": digest} for name, digest in outputs.items()},
        "started": "2026-01-01T00:00:00+00:00", "seconds": 1.5,
    }  # fmt: skip
    (folder / "artifact.json").write_text(json.dumps(record))
    return folder


def test_who_took_what_of_whom_is_told_by_digests(tmp_path):
    data = artifact(tmp_path / "d", "data", {"one/s": "1", "two/s": "1"}, {"train": "9"})
    inputs = {
        "data": data,
        "dataset:one": artifact(tmp_path / "a", "dataset", {}, {"s": "1"}),
        "dataset:two": artifact(tmp_path / "b", "dataset", {}, {"s": "2"}),
        "gone": tmp_path / "nowhere",
    }
    nodes = lineage(inputs)
    assert [node.role for node in nodes] == ["dataset:one", "data", "dataset:two"]
    assert nodes[1].takes == ("dataset:one",)
    assert nodes[0].stage == "dataset:one"
    assert (nodes[1].size, nodes[1].seconds) == (10, 1.5)


def test_records_that_lead_in_a_circle_end(tmp_path):
    inputs = {name: artifact(tmp_path / name, name, {"x/f": other}, {"f": own})
              for name, own, other in (("a", "1", "2"), ("b", "2", "1"))}  # fmt: skip
    assert {node.role for node in lineage(inputs)} == {"a", "b"}


def test_the_log_is_told_from_its_end_and_what_is_left_out_is_counted(tmp_path):
    nodes = lineage({"train": artifact(tmp_path / "t", "train", {}, {})})
    line = {"stage": "train", "artifact": "train-trainfffffff0000", "started": "", "seconds": 1}
    lines = [json.dumps({**line, "seconds": n, "artifact": f"data-{n:016}"}) for n in range(MOST_LINES + 5)]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join([*lines, json.dumps(line), '{"stage": "tr']))
    told, earlier = history(log, nodes)
    assert len(told) == MOST_LINES
    assert earlier == 6
    assert [one["here"] for one in told[:2]] == [True, False]
    assert told[1]["seconds"] == MOST_LINES + 4
    assert history(tmp_path / "none", nodes) == ([], 0)
