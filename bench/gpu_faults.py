"""On two GPUs: build two variants side by side; kill one of two processes, resume; hold the models together.

    python bench/gpu_faults.py --tokenizer FOLDER [--deepspeed zero2] [--kill-only] [--into FILE]

The same LoRA at the same global batch: on one GPU, on one GPU in halves (how far two ways to train the same are apart
in bfloat16), and on two GPUs, where the process of rank 1 is killed once. With --kill-only, only that is done, and
nothing is held together. Adds to bench/results/gpu_faults-<date>.md.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import measure
from gpu_lab import OWN, arguments, built, card, environment, make_base, project, publish

STEPS, EVERY = 60, 20
_TRAIN = OWN + f"steps = {STEPS}\ncheckpoints = {{ every = {EVERY}, keep = 2 }}\nbatch_size = 8\n"
_VARIANTS = "[variants.one.train]\nbatch_size = 16\n[variants.halves.train]\naccumulation = 2\n"


def side_by_side(folder: Path, base: Path, samples: int, deepspeed: str) -> tuple[Path, list[str]]:
    """Build two variants by `doit -n 2`; give the project, and how long it took and what ran where."""
    where = project(folder / "one", base, _TRAIN + _settings(deepspeed) + _VARIANTS, samples)
    built(where, "config:one", "config:halves", "tokens")
    ended, seen = threading.Event(), {frozenset[str]()}
    watcher = threading.Thread(target=_watch, args=(ended, seen))
    watcher.start()
    seconds = built(where, "-n", "2", "merge:one", "merge:halves")
    ended.set()
    watcher.join()
    most = max(len(gpus) for gpus in seen)
    return where, [f"- `doit -n 2` of two variants to the merged models: {seconds:.1f} s, {most} GPUs at work at once"]


def _settings(deepspeed: str) -> str:
    return f'deepspeed = "{deepspeed}"\n' if deepspeed else ""


def killed_and_resumed(folder: Path, base: Path, samples: int, deepspeed: str) -> tuple[Path, list[str]]:
    """Train on two GPUs, kill rank 1 once a checkpoint is there, build again; give the project and what was told."""
    where = project(folder / "two", base, f"{_TRAIN}{_settings(deepspeed)}[launch]\ngpus = 2\n", samples)
    built(where, "config", "tokens")
    command = [sys.executable, "-m", "doit", "merge"]
    process = subprocess.Popen(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment())
    found = _wait_for_rank(where, process)
    os.kill(found, signal.SIGKILL)
    start = time.perf_counter()
    told = (process.communicate()[0] or b"").decode(errors="replace")
    ended = time.perf_counter() - start
    lines = [line for line in told.splitlines() if "process" in line and "train" in line]
    left = subprocess.run(["pgrep", "-f", "xtuner_process"], capture_output=True, text=True, check=False).stdout.split()
    again = built(where, "merge")
    log = (where / "log").read_text("utf-8", errors="replace")
    resumed = re.findall(r"resuming from \S+", log)
    way = f"under {deepspeed}" if deepspeed else "data parallel"
    return where, [
        f"- rank 1 killed ({way}): build ended after {ended:.1f} s, exit code {process.returncode}, {len(left)} left",
        *(f"  `{line.strip()}`" for line in lines),
        f"- the next build: {resumed[-1] if resumed else 'did not resume'}, merged {again:.1f} s after its start",
    ]


def _wait_for_rank(where: Path, process: subprocess.Popen[bytes]) -> int:
    """Wait until the training has gone on from its first checkpoint; give the process of rank 1."""
    while process.poll() is None:
        time.sleep(0.1)
        lines = [path.read_text().count("\n") for path in where.glob("build/.work/train-*/metrics.jsonl")]
        found = _rank_1() if max(lines, default=0) > EVERY + 2 else None
        if found is not None:
            return found
    sys.exit(f"the training ended before it could be killed:\n{(process.communicate()[0] or b'').decode()[-3000:]}")


def _rank_1() -> int | None:
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            told, command = path.read_bytes().split(b"\0"), path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if b"RANK=1" in told and b"xtuner_process" in command:
            return int(path.parent.name)
    return None


def _watch(ended: threading.Event, seen: set[frozenset[str]]) -> None:
    """Note which GPUs have a process, twice a second until the end."""
    while not ended.wait(0.5):
        if shutil.which("nvidia-smi") is None:
            continue
        asked = ["nvidia-smi", "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader"]
        lines = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
        seen.add(frozenset(line.split(",")[0] for line in lines))


def apart(one: Path, two: Path) -> str:
    """Say how far two builds are: what their adapters change, and their merged weights. one, two: build/VARIANT."""
    import torch
    from safetensors.torch import load_file

    norms, device = torch.zeros(2, dtype=torch.float64), "cuda" if torch.cuda.is_available() else "cpu"
    first, second = (load_file(path / "adapter" / "adapter_model.safetensors", device) for path in (one, two))
    for name in (name for name in first if "lora_A" in name):
        pair = name.replace("lora_A", "lora_B")
        change, other = (told[pair].float() @ told[name].float() for told in (first, second))
        norms += torch.stack([(change - other).norm() ** 2, change.norm() ** 2]).double().cpu()
    unequal = count = 0
    largest = 0.0
    for path in sorted((one / "merged").glob("*.safetensors")):
        merged, against = load_file(path, device), load_file(two / "merged" / path.name, device)
        for name, weight in merged.items():
            unequal += int((weight != against[name]).sum())
            count += weight.numel()
            largest = max(largest, float((weight.float() - against[name].float()).abs().max()))
    changes = float((norms[0] / norms[1]).sqrt())
    merged_told = f"{unequal / count:.2%} of the merged weights differ, by {largest:.1e} at most"
    return f"changes of the weights {changes:.3f} of their norm apart; {merged_told}"


def main() -> None:
    """Run it all, print and write what was seen."""
    parser = arguments(__doc__.splitlines()[0], "tunemake-gpu-faults")
    parser.add_argument("--deepspeed", default="")
    parser.add_argument("--kill-only", action="store_true", help="no variants, and nothing to hold the model against")
    chosen = parser.parse_args()
    base = make_base(chosen.folder, "llama", chosen.size, chosen.tokenizer)
    lines = [card(), *measure.circumstances()]
    if chosen.kill_only:
        told = killed_and_resumed(chosen.folder, base, chosen.samples, chosen.deepspeed)[1]
        publish("GPU_faults", [*lines, *told], chosen.into)
        return
    one, told = side_by_side(chosen.folder, base, chosen.samples, chosen.deepspeed)
    lines += [*told, f"- one GPU, whole and in halves: {apart(one / 'build/one', one / 'build/halves')}"]
    print("\n".join(lines), flush=True)
    two, told = killed_and_resumed(chosen.folder, base, chosen.samples, chosen.deepspeed)
    lines += [*told, f"- one GPU and two GPUs: {apart(one / 'build/one', two / 'build/default')}"]
    publish("GPU_faults", lines, chosen.into)


if __name__ == "__main__":
    main()
