import os

import pytest

from tunemake.machine import cuda_devices, gpu_findings, room_findings, size


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


@pytest.mark.parametrize(("needed", "severity"), [(10**9, []), (95 * 10**8, ["warning"]), (2 * 10**10, ["error"])])
def test_room(needed, severity):
    assert [finding.severity for finding in room_findings(needed, 10**10, {"adapter": needed})] == severity


@pytest.mark.parametrize(
    ("number", "told"), [(999, "999 B"), (1500, "1.5 kB"), (150_000, "150 kB"), (3 * 10**12, "3.0 TB")]
)
def test_sizes(number, told):
    assert size(number) == told
