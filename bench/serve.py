"""Measures `tunemake serve`: tokens a second for 1 and 8 parallel requests beside transformers' generate, and memory.

python bench/serve.py [MODEL_FOLDER] [ROUNDS]. A server process answers over HTTP; transformers generates here. Both
make the same number of tokens from the same prompts, greedily, and take turns; while one works the other waits. At the
end 50 requests come at once, and the server's memory before is told beside its peak.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import measure

sys.path[:0] = [str(measure.ROOT / "src"), str(measure.ROOT / "plugins")]

from tunemake.contracts import Message  # noqa: E402 - of this checkout
from tunemake.model_choice import Models  # noqa: E402
from tunemake.process import SHORT_SPIN  # noqa: E402

TOKENS = 64
CROWD = 50
TOPICS = ("a river", "a clock", "bread", "the moon", "a train", "a garden", "chess", "salt")


def main() -> int:
    """Run it; publish the table."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else measure.ROOT / "build" / "default" / "merged").resolve()
    # The server sets it for itself. Without it generate takes several times as long on a busy machine.
    os.environ.update({**SHORT_SPIN, **os.environ})
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5  # noqa: PLR2004 - the second argument
    plain = _plain(folder)
    with _server(folder) as (ask, crowd):
        contenders: dict[str, Callable[[], int]] = {}
        for count in (1, 8):
            contenders[f"transformers generate, {count}"] = lambda n=count: plain(TOPICS[:n])  # type: ignore[misc]
            contenders[f"tunemake serve, {count}"] = lambda n=count: ask(TOPICS[:n])  # type: ignore[misc]
        for contender in contenders.values():
            contender()  # warm
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                start = time.perf_counter()
                tokens = contender()
                speeds[name].append(tokens / (time.perf_counter() - start))
        gathered = crowd()
    measure.publish("Serve", [*measure.circumstances(), *_told(folder, rounds), "", *_table(speeds), "", gathered])
    return 0


def _told(folder: Path, rounds: int) -> list[str]:
    size = (folder / "model.safetensors").stat().st_size >> 20
    lengths = f"prompts of about 20 tokens, answers of up to {TOKENS}, greedy"
    return [
        f"- model: {size} MiB of weights; {lengths}; {rounds} rounds, interleaved; 8 by generate are one batch",
        "- both with the short spin of OpenMP's threads that `tunemake serve` sets",
    ]


def _table(speeds: dict[str, list[float]]) -> list[str]:
    medians = {name: statistics.median(every) for name, every in speeds.items()}
    lines = ["| parallel | tokens/s, median (all) | × generate |", "| --- | --- | --- |"]
    for name, every in speeds.items():
        floor = medians[f"transformers generate, {name.rpartition(' ')[2]}"]
        ratios = f"{medians[name] / floor:.2f}"
        lines.append(f"| {name} | {medians[name]:.1f} ({', '.join(f'{one:.0f}' for one in every)}) | {ratios} |")
    return lines


def _messages(topic: str) -> list[Message]:
    return [{"role": "user", "content": f"Tell me a long story about {topic}, please."}]


def _plain(folder: Path) -> Callable[[Sequence[str]], int]:
    model = Models(folder.parent).choose(str(folder)).load()
    return lambda topics: sum(len(ids) for ids in model.generated([_messages(topic) for topic in topics], TOKENS))


@contextmanager
def _server(folder: Path) -> Iterator[tuple[Callable[[Sequence[str]], int], Callable[[], str]]]:
    path = os.pathsep.join([str(measure.ROOT / "src"), str(measure.ROOT / "plugins")])
    command = [sys.executable, "-m", "tunemake.cli", "serve", str(folder), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": path}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder.parent)
    assert process.stdout is not None
    found = re.search(r"serving (\S+) at (\S+);", process.stdout.readline())
    assert found is not None
    name, url = found[1], found[2]

    def answered(topic: str) -> int:
        body = {"model": name, "messages": _messages(topic), "max_tokens": TOKENS, "temperature": 0}
        request = urllib.request.Request(  # noqa: S310 - our own server's address
            f"{url}/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return int(json.load(answer)["usage"]["completion_tokens"])

    def outcome(number: int) -> int:
        try:
            answered(f"{TOPICS[number % len(TOPICS)]} and the number {number}")
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    def crowd() -> str:
        before = _memory(process.pid, "VmRSS")
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak counts from now on
        with ThreadPoolExecutor(CROWD) as all_at_once:
            codes = list(all_at_once.map(outcome, range(CROWD)))
        told = ", ".join(f"{codes.count(code)} × {code}" for code in sorted(set(codes)))
        peak = _memory(process.pid, "VmHWM")
        return f"{CROWD} requests at once: {told}; {before} MiB of memory before, {peak} MiB at the peak."

    try:
        with ThreadPoolExecutor(len(TOPICS)) as pool:
            yield lambda topics: sum(pool.map(answered, topics)), crowd
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _memory(pid: int, name: str) -> int:
    """Give a process's memory in MiB, as the kernel names it."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("utf-8"))
    assert found is not None
    return int(found[1]) >> 10


if __name__ == "__main__":
    sys.exit(main())
