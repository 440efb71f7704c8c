"""Time validating and writing samples: tunemake's dataset stage and orjson alone, interleaved.

    python bench/samples.py [--samples 1000000] [--rounds 5]

Every contender takes the same samples from memory and writes JSON lines; only the writing is timed, by the process
itself. Prints a Markdown table and adds it to bench/results/samples-<date>.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

COMMON = """
import itertools, json, resource, sys, time
from pathlib import Path
made = [
    {"messages": [{"role": "user", "content": f"Who are you, and what is {i} good for?"},
                  {"role": "assistant", "content": "I am Xiaomu, an AI assistant."}]}
    for i in range(10_000)
]
samples = itertools.islice(itertools.cycle(made), int(sys.argv[1]))
path = Path(sys.argv[2])
"""
END = """
seconds = time.perf_counter() - start
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
CONTENDERS = {
    "orjson alone": """
from orjson import dumps
start = time.perf_counter()
with path.open("wb") as file:
    for sample in samples:
        file.write(dumps(sample))
        file.write(b"\\n")
""",
    "tunemake: checked, counted, written": """
from tunemake.samples import write_checked
def bad(*told): raise AssertionError(told)
start = time.perf_counter()
assert write_checked(path, samples, "bench", bad).counts()["unique"] == 10_000
""",
    "jsonschema and json": """
from jsonschema import Draft202012Validator
from tunemake.schema import load_schema
check = Draft202012Validator(load_schema("sample.schema.json")).is_valid
start = time.perf_counter()
with path.open("w") as file:
    for sample in samples:
        assert check(sample)
        file.write(json.dumps(sample, ensure_ascii=False) + "\\n")
""",
}


def run(name: str, samples: int) -> tuple[float, float]:
    """Run one contender; give its seconds and its peak in MiB."""
    path = f"{measure.ROOT / 'src'}{os.pathsep}{measure.ROOT / 'plugins'}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", COMMON + CONTENDERS[name] + END, str(samples), str(Path(folder) / "out")]
        done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONPATH": path})
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def main() -> None:
    """Run the rounds, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    slow = "jsonschema and json"
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    for turn in range(chosen.rounds):
        for name in CONTENDERS:
            if name != slow or not turn:  # once is enough to know it by
                results[name].append(run(name, chosen.samples // (20 if name == slow else 1)))
    results[slow] = [(seconds * 20, peak) for seconds, peak in results[slow]]
    floor = statistics.median(seconds for seconds, _ in results["orjson alone"])
    lines = ["| | µs a sample, median (all) | peak MiB | × orjson alone |", "| --- | --- | --- | --- |"]
    for name, rounds in results.items():
        each = [seconds / chosen.samples * 1e6 for seconds, _ in rounds]
        every, peak = ", ".join(f"{one:.2f}" for one in each), max(peak for _, peak in rounds)
        ratio = statistics.median(each) * chosen.samples / 1e6 / floor
        lines.append(f"| {name} | {statistics.median(each):.2f} ({every}) | {peak:.0f} | {ratio:.2f} |")
    _, small = run("tunemake: checked, counted, written", chosen.samples // 10)
    told = f"- {chosen.samples:,} samples; with a tenth of them tunemake's peak is {small:.0f} MiB"
    note = f"- {slow}: measured on a twentieth of the samples"
    measure.publish("Samples", [told, note, *measure.circumstances(), "", *lines])


if __name__ == "__main__":
    main()
