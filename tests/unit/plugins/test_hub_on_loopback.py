"""Hugging Face's hub as `hf` meets it: the real packages against a server on loopback."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("datasets")
COMMIT = "a" * 40
CARD = "---\nconfigs:\n- config_name: one\n  data_files: data/*.jsonl\n---\n"
FILES = {
    "README.md": CARD.encode(),
    "data/1.jsonl": b'{"question": "q1", "answer": "a1"}\n{"question": "q2"}\n',
    "data/2.jsonl": b'{"question": "q3", "answer": "a3"}\n',
    "other.py": b"raise SystemExit('it ran')",
}
CODE = """
import sys
from pathlib import Path
from tunemake.contracts import Context, GeneratorError
from tunemake_builtins.hubs import HuggingFace
told = lambda *words: print(*words[:2], sep=": ")
context = Context(Path(sys.argv[1]), 1, say=told, bad=told)
try:
    for sample in HuggingFace().samples(eval(sys.argv[2]), context):
        print([message["content"] for message in sample["messages"]])
except GeneratorError as error:
    print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a dataset asks for."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.send(json.dumps([entry for entry in entries() if entry["path"] in asked]).encode(), {})

    def answer(self, *, body):
        path = self.path.split("?")[0].replace("%2F", "/")
        name = path.partition(f"/datasets/org/set/resolve/{COMMIT}/")[2]
        if name in FILES:
            etag = hashlib.sha256(FILES[name]).hexdigest()
            self.send(FILES[name], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body=body)
        elif path.startswith("/api/datasets/org/set/tree/"):
            self.send(json.dumps(entries()).encode(), {"Content-Type": "application/json"}, body=body)
        elif path in {"/api/datasets/org/set", f"/api/datasets/org/set/revision/{COMMIT}"}:
            siblings = [{"rfilename": name} for name in FILES]
            told = {"id": "org/set", "sha": COMMIT, "siblings": siblings, "private": False, "downloads": 0, "tags": []}
            self.send(json.dumps(told).encode(), {"Content-Type": "application/json"}, body=body)
        else:
            missing = "EntryNotFound" if "/org/set/" in path else "RepoNotFound"
            self.send(b"", {"X-Error-Code": missing, "X-Repo-Commit": COMMIT}, 404)

    def send(self, content, headers, code=200, *, body=True):
        self.server.asked.append(self.path)
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def entries():
    files = [{"type": "file", "path": name, "oid": "0" * 40, "size": len(text)} for name, text in FILES.items()]
    return [*files, {"type": "directory", "path": "data", "oid": "1" * 40}]


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def told(hub, tmp_path):
    def run(**parameters):
        environment = {
            **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip
        command = [sys.executable, "-c", CODE, str(tmp_path), repr({"format": "qa", **parameters})]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout.splitlines()

    return run


def test_a_dataset_of_the_hub(told, hub):
    assert told(path="org/set", revision=COMMIT) == [
        "['q1', 'a1']",
        'org/set/data/1.jsonl:2: no "answer"; the row has question',
        "['q3', 'a3']",
    ]
    hub.asked.clear()
    assert told(path="org/set", limit=1)[1:] == ["['q1', 'a1']"]
    assert not any("2.jsonl" in path for path in hub.asked)


def test_what_is_not_there(told):
    (line,) = told(path="org/none", revision=COMMIT)
    assert line.startswith("org/none: cannot be opened: Dataset 'org/none' doesn't exist on the Hub")
    (line,) = told(path="org/set", revision=COMMIT, split="test")
    assert line == 'org/set: no split "test"; known: train'
