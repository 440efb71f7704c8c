"""What a job asks of Slurm: the project's values as sbatch's options."""

from pathlib import Path

import pytest

from tunemake.job_request import job_name, parameters, seconds_of
from tunemake.schema import load_schema, schema_faults, with_defaults

SHAPE = load_schema("project.schema.json")["properties"]["launch"]


def asked(nodes=1, **told):
    slurm = with_defaults({"slurm": told}, SHAPE)["slurm"]
    return parameters(slurm, "name", Path("/p"), nodes)


def test_values_become_options():
    made = asked(partition="gpu", time="2:00:00", gpus="a100:2", constraint="nvme", options={"mem": "8G", "qos": False})
    more = {"partition": "gpu", "time": "2:00:00", "gpus": "a100:2", "constraint": "nvme", "mem": "8G"}
    assert made["additional_parameters"] == {"chdir": "/p", "requeue": True, "signal": "USR2@60", **more}


def test_a_cluster_decides_what_is_left_out():
    made = asked()
    assert made["additional_parameters"] == {"chdir": "/p", "requeue": True, "signal": "USR2@60"}
    assert made["time"] is None
    assert "requeue" not in asked(options={"no-requeue": True})["additional_parameters"]


def test_a_job_of_several_nodes_runs_its_stage_on_the_first():
    made = asked(nodes=3, gpus="a100:2", options={"cpus-per-task": 8})
    more = made["additional_parameters"]
    assert (more["nodes"], more["ntasks-per-node"], more["gpus-per-node"]) == (3, 1, "a100:2")
    assert "gpus" not in more
    assert made["srun_args"] == ["--nodes=1", "--ntasks=1", "--relative=0", "--overlap", "--cpus-per-task=8"]


@pytest.mark.parametrize(("time", "warning"), [(1, 15), (4, 60), (600, 60), ("0:20", 5), ("1-0", 60)])
def test_the_warning_is_at_most_a_quarter_of_the_limit(time, warning):
    assert asked(time=time)["additional_parameters"]["signal"] == f"USR2@{warning}"


def test_the_cores_of_a_job_are_those_of_its_step():
    assert asked(options={"cpus-per-task": 8})["srun_args"] == ["--cpus-per-task=8"]
    assert asked()["srun_args"] == []


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        (90, 5400), ("90", 5400), ("1:30", 90), ("1:00:00", 3600), ("1-12", 129_600), ("1-0:30", 88_200),
        ("2-1:02:03", 176_523), (None, None),
    ],
)  # fmt: skip
def test_a_limit_is_read_as_sbatch_reads_it(limit, seconds):
    assert seconds_of(limit) == seconds


@pytest.mark.parametrize("name", ["output", "nodes", "ntasks-per-node"])
def test_options_that_a_build_sets_itself_are_refused(name):
    ((_, fault),) = schema_faults({"slurm": {"options": {name: "x"}}}, SHAPE, "project.toml")
    assert str(fault).startswith("project.toml: slurm.options: not allowed; expected the long name of one of sbatch's")


def test_a_name_tells_the_fingerprint_and_the_build(tmp_path):
    one, other = (job_name(tmp_path / folder / "train-0123456789abcdef") for folder in ("a", "b"))
    assert one != other
    assert one.endswith("-train-0123456789abcdef")
