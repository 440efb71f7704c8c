"""What a training in several processes is looked at by: its processes, and the weights that come out."""

from __future__ import annotations

from pathlib import Path

from conftest import processes_of


def adapter(project):
    from safetensors.numpy import load_file

    return load_file(project.root / "build/default/adapter/adapter_model.safetensors")


def far(one, other):
    """Give the largest distance between two adapters' weights."""
    assert one.keys() == other.keys()
    return max(float(abs(one[name] - other[name]).max()) for name in one)


def ranks(project):
    """Find the processes that train, by number."""
    found = {}
    for pid in processes_of(project.root / "build"):
        try:
            told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        numbers = [int(line[5:]) for line in told if line.startswith(b"RANK=")]
        if numbers and b"xtuner_process" in command:
            found[numbers[0]] = pid
    return found
