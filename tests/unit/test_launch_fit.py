"""Whether the values of [launch] fit each other."""

import pytest

from tunemake.launch_fit import devices, gpus_asked, launch_faults
from tunemake.schema import load_schema, with_defaults

SHAPE = load_schema("project.schema.json")["properties"]["launch"]


def found(**told):
    return [str(fault) for _, fault in launch_faults(with_defaults(told, SHAPE), "project.toml")]


@pytest.mark.parametrize(
    "launch",
    [
        {},
        {"gpus": 4},
        {"gpus": 4, "slurm": {"gpus": 1}},  # no job, and so nothing asked for
        {"on": "slurm", "nodes": 2, "gpus": 2},  # what is left out, the cluster decides
        {"on": "slurm", "nodes": 2, "gpus": 2, "slurm": {"gpus": "a100:2"}},
        {"on": "slurm", "gpus": 2, "slurm": {"gpus": 0}},  # as many processes on the CPU
        {"on": "slurm", "gpus": 2, "slurm": {"gpus": 8}},
    ],
)
def test_what_fits(launch):
    assert found(**launch) == []


def test_several_nodes_need_slurm():
    told = "project.toml: launch.nodes: more than one, without Slurm; "
    assert found(nodes=2) == [told + 'set on = "slurm" in [launch]']


def test_a_job_has_a_gpu_for_each_process():
    told = "project.toml: launch.slurm.gpus: fewer than launch.gpus; expected at least 4"
    assert found(on="slurm", gpus=4, slurm={"gpus": "a100:2"}) == [f"{told}, got 2"]
    assert found(on="slurm", gpus=4, nodes=2, slurm={"gpus": 2}) == [f"{told} on each node, got 2"]


@pytest.mark.parametrize(
    ("told", "number"),
    [(2, 2), ("2", 2), ("a100:2", 2), ("a100", 1), ("a:1,b:2", 3), ("a:b:c", None), (",", None)],
)
def test_gpus_are_read_as_sbatch_reads_them(told, number):
    assert gpus_asked(told) == number


def test_devices_are_those_of_all_nodes():
    assert devices(with_defaults({"gpus": 4, "nodes": 2}, SHAPE)) == 8
    assert devices({}) == 1
