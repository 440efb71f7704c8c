import os
import stat

import pytest

from tunemake.machine import Memory, cuda_devices, device_memory, gpu_findings, needs_gpu, room_findings, size


def test_hidden_devices_are_none():
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert cuda_devices({"CUDA_VISIBLE_DEVICES": "-1"}) == 0


@pytest.mark.gpu
def test_devices_are_those_that_torch_sees():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    assert cuda_devices(os.environ) == torch.cuda.device_count()


def test_a_training_on_the_cpu_asks_for_no_gpu():
    assert list(gpu_findings({"method": "lora", "precision": "float32"}, 1, {"CUDA_VISIBLE_DEVICES": ""})) == []


@pytest.mark.parametrize(
    ("version", "precision", "needs"),
    [
        ("0.50.2", "float32", None),
        ("1.0.0", "float32", None),
        ("0.50.2", "bfloat16", ("train.precision", "bfloat16")),
        ("0.49.1", "float32", ("train.method", "qlora")),
    ],
)
def test_4_bits_want_a_gpu_or_a_bitsandbytes_that_can_do_without(version, precision, needs, tmp_path, monkeypatch):
    installed = tmp_path / f"bitsandbytes-{version}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: bitsandbytes\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert needs_gpu({"method": "qlora", "precision": precision}) == needs


@pytest.mark.parametrize(("needed", "severity"), [(10**9, []), (95 * 10**8, ["warning"]), (2 * 10**10, ["error"])])
def test_room(needed, severity):
    assert [finding.severity for finding in room_findings(needed, 10**10, {"adapter": needed})] == severity


@pytest.mark.parametrize(
    ("number", "told"), [(999, "999 B"), (1500, "1.5 kB"), (150_000, "150 kB"), (3 * 10**12, "3.0 TB")]
)
def test_sizes(number, told):
    assert size(number) == told


PLAIN, HALF = {"method": "lora", "precision": "float32"}, {"method": "lora", "precision": "bfloat16"}
ALONE, NO_GPU = {"trainings_per_gpu": 1}, {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """The tool itself is not here: a script speaks as it does, of driver 580, for two cards of unlike sizes."""
    tool = tmp_path / "nvidia-smi"
    answer = 'if [ "$1" = -L ]; then printf "GPU 0: a\\nGPU 1: b\\n"; else printf "81559\\n24564\\n"; fi'
    tool.write_text(f"#!/bin/sh\n{answer}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("two_gpus")
def test_memory_is_that_of_the_smallest_gpu_and_shared_where_trainings_share_one():
    whole = device_memory({}, ALONE, HALF, 1, here=True)
    assert whole == Memory(round(0.9 * 24564 * 2**20), of_gpu=True)
    assert device_memory({}, {"trainings_per_gpu": 2}, HALF, 1, here=True).size == pytest.approx(whole.size / 2, abs=1)


def test_without_a_gpu_it_is_what_is_free_for_each_process():
    one = device_memory(NO_GPU, ALONE, PLAIN, 1, here=True)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert not one.of_gpu
    assert 10**8 < one.size < whole
    assert device_memory(NO_GPU, ALONE, PLAIN, 4, here=True).size < whole / 4


def test_of_a_device_that_is_not_here_only_the_project_tells():
    assert device_memory(NO_GPU, ALONE, HALF, 1, here=True) == Memory(None, of_gpu=True)
    assert device_memory(NO_GPU, ALONE, PLAIN, 1, here=False) == Memory(None, of_gpu=True)
    told = {**ALONE, "memory": 72.5}
    assert device_memory(NO_GPU, told, HALF, 1, here=False) == Memory(72_500_000_000, of_gpu=True)
    assert device_memory(NO_GPU, told, PLAIN, 2, here=True) == Memory(72_500_000_000, of_gpu=False)
