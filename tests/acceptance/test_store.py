"""Artifacts shared between folders and machines: a real training here, its model there without torch."""

import json
import os
import re
import shutil
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer

from conftest import TinyProject, kill, processes_of, wait_for

pytestmark = pytest.mark.train
BUCKET = "s3://team/models"
KEYS = {"AWS_ACCESS_KEY_ID": "key-of-the-team", "AWS_SECRET_ACCESS_KEY": "secret-of-the-team"}
NO_TORCH = "raise ImportError('torch is not here')\n"


class Server:
    """moto's S3 on loopback, and a client that reads and writes what the tests damage."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}

    def client(self):
        import s3fs

        return s3fs.S3FileSystem(
            key=KEYS["AWS_ACCESS_KEY_ID"], secret=KEYS["AWS_SECRET_ACCESS_KEY"], use_listings_cache=False,
            skip_instance_cache=True, client_kwargs={"endpoint_url": self.environment["AWS_ENDPOINT_URL"]},
        )  # fmt: skip

    def record(self, stage: str) -> str:
        (found,) = [name for name in self.client().ls("team/models/records") if Path(name).name.startswith(f"{stage}-")]
        return found

    def stages(self) -> set[str]:
        return {Path(name).name.partition("-")[0] for name in self.client().ls("team/models/records")}

    def reset(self) -> None:
        """Forget what an earlier server of this process held."""
        request = Request(f"{self.environment['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")  # noqa: S310 - http
        urlopen(request).close()  # noqa: S310

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture
def server():
    made = Server()
    made.reset()
    made.client().mkdir("team")
    yield made
    made.stop()


def share(project: TinyProject, **store: object) -> TinyProject:
    lines = [f"{name} = {json.dumps(value)}" for name, value in store.items()]
    project.edit("[train]\n", "\n".join(["[store]", *lines, "", "[train]", ""]))
    return project


def sent(project: TinyProject, server: Server, **store: object) -> None:
    """Send what a project has built."""
    share(project, url=BUCKET, **store)
    done = project.run("tunemake", "store", "send", **server.environment)
    assert done.code == 0, done.told()
    assert done.out.count(" is there") == 12, done.told()


@pytest.fixture
def teammate(tmp_path, tiny_llama):
    """The same project in another folder, on a Python that has no torch."""
    made = TinyProject(tmp_path / "far" / "clone")
    shutil.copytree(tiny_llama, made.root / "models" / "tiny")
    (tmp_path / "no-torch").mkdir()
    (tmp_path / "no-torch" / "torch.py").write_text(NO_TORCH)
    return share(made, url=BUCKET)


def without_torch(project: TinyProject, server: Server) -> dict[str, str]:
    paths = [str(project.root.parents[1] / "no-torch"), os.environ.get("PYTHONPATH", "")]
    return {**server.environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def model(project: TinyProject) -> dict[str, bytes]:
    folder = project.root / "build/default/merged"
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in {"artifact.json", "log.txt"}}


def test_a_teammate_without_torch_gets_adapter_and_model_that_were_trained_here(project, server, teammate):
    built = share(project, url=BUCKET)
    first = built.doit("merge", **server.environment)
    assert first.code == 0, first.told()
    assert "train made in" in first.out
    assert not {"train", "adapter", "merge"} & server.stages()  # the gate has not seen them
    judged = built.doit(**server.environment)
    assert judged.code == 0, judged.told()
    assert {"train", "adapter", "merge", "evaluate", "gate"} <= server.stages()
    assert "s3://" not in first.told() + judged.told()
    environment = without_torch(teammate, server)
    absent = teammate.run("python", "-c", "import torch", **environment)
    assert absent.code == 1
    plan = teammate.run("tunemake", "plan", **environment)
    assert "made elsewhere; will be fetched from the shared store" in plan.out, plan.told()
    done = teammate.doit("merge", **environment)
    assert done.code == 0, done.told()
    assert re.search(r"train: made elsewhere, \d files? not fetched", done.told())
    assert "adapter: made elsewhere, fetched from s3://team/models" in done.told()
    assert "train made in" not in done.out
    assert model(teammate) == model(built)
    assert "model.safetensors" in model(teammate)
    assert not list((teammate.root / "build/default/train").glob("iter_*"))
    again = teammate.doit("merge", **environment)
    assert (again.code, again.ran) == (0, [])
    why = teammate.run("tunemake", "why", "merge")
    assert why.code == 0, why.told()
    verified = teammate.run("tunemake", "verify", **environment)
    assert verified.code == 0, verified.told()
    everything = b"".join(
        path.read_bytes() for root in (built.root, teammate.root) for path in root.rglob("*")
        if path.is_file() and path.suffix in {".json", ".jsonl", ".txt", ".py"}
    )  # fmt: skip
    client = server.client()
    everything += b"".join(client.cat_file(name) for name in client.find("team"))
    assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in everything + done.told().encode()
    assert str(built.root).encode() not in b"".join(client.cat_file(name) for name in client.ls("team/models/records"))


def test_what_is_damaged_or_lies_there_is_refused_and_made_here_from_what_is_whole(built, server, teammate):
    sent(built, server)
    client, environment = server.client(), without_torch(teammate, server)
    merged = json.loads(client.cat_file(server.record("merge")))
    weights = f"team/models/files/{merged['outputs']['model.safetensors']['sha256']}"
    content = bytearray(client.cat_file(weights))
    content[-1] ^= 1
    client.pipe_file(weights, bytes(content))
    data = json.loads(client.cat_file(server.record("data")))
    data["outputs"] = {"../../../../stolen": {"size": 1, "sha256": "0" * 64}, **data["outputs"]}
    client.pipe_file(server.record("data"), json.dumps(data).encode())
    dataset = json.loads(client.cat_file(server.record("dataset")))
    dataset["parameters"]["parameters"]["name"] = "Eve"
    client.pipe_file(server.record("dataset"), json.dumps(dataset).encode())
    done = teammate.doit(**environment)
    assert done.code == 0, done.told()
    assert "is not taken: model.safetensors is damaged there" in done.told()
    assert "is not taken: its record names a file '../../../../stolen'; it is made here" in done.told()
    assert "is not taken: its record is not that of its fingerprint" in done.told()
    for stage in ("dataset:identity", "data", "merge"):
        assert f"   {stage} made in " in done.out
    assert model(teammate) == model(built)
    assert not list(teammate.root.parents[1].rglob("stolen"))
    # what was refused has been replaced by what was made here
    assert client.cat_file(weights) == model(built)["model.safetensors"]


def test_a_checkpoint_of_others_is_never_read(built, server, teammate):
    sent(built, server, checkpoints=True)
    client = server.client()
    client.rm(server.record("adapter"))
    done = teammate.doit("merge", **without_torch(teammate, server))
    assert done.code != 0
    assert "train was made elsewhere, and adapter reads what of it is not here: made here" in done.told()
    assert "torch is not here" in done.told()
    assert "Traceback" not in done.out
    assert not list(teammate.root.rglob("iter_*.pth"))
    # with torch, it is trained here, to the end
    done = teammate.doit("merge", **server.environment)
    assert done.code == 0, done.told()
    assert list((teammate.root / "build/default/train").glob("iter_*.pth"))
    # and on the machine that made it, the checkpoint comes back
    entry = (built.root / "build/default/train").resolve()
    for stage in ("train", "adapter"):
        shutil.rmtree((built.root / "build/default" / stage).resolve())
    assert not entry.exists()
    assert "adapter" not in server.stages()  # what was trained anew was not judged
    done = built.doit("merge", **server.environment)
    assert done.code == 0, done.told()
    assert "train made in" not in done.out
    assert "adapter made in" in done.out
    assert list(entry.glob("iter_*.pth"))


def test_a_server_that_is_down_is_one_line_and_the_build_goes_on(project, server):
    share(project, url=BUCKET)
    server.stop()
    done = project.doit("data", "config", **server.environment)
    assert done.code == 0, done.told()
    assert done.told().count("s3://team/models") == 1
    assert "this build goes on with the local store alone" in done.told()


def test_two_projects_that_share_a_folder_train_once(tmp_path, project):
    share(project, path="../artifacts")
    shutil.copytree(project.root, tmp_path / "q", symlinks=True)
    other = TinyProject.__new__(TinyProject)
    other.root = tmp_path / "q"
    both = [each.start("doit", "train") for each in (project, other)]
    outs = [process.communicate(timeout=500)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert sum("   train made in " in out for out in outs) == 1, outs
    places = {(each.root / "build/default/train").resolve() for each in (project, other)}
    assert len(places) == 1
    assert places.pop().parent == tmp_path / "artifacts" / "store"
    assert not list((project.root / "build").glob(".store"))


def test_a_built_project_that_names_a_shared_folder_takes_its_training_along(built, tmp_path):
    share(built, path="../artifacts")
    done = built.built()
    assert " made in " not in done.out
    assert (built.root / "build/default/merged").resolve().parent == tmp_path / "artifacts" / "store"
    assert built.built().ran == []


def test_the_store_is_listed_and_verified(built):
    old = built.record("default/train")["fingerprint"][:16]
    built.edit("lr = 1e-3", "lr = 2e-3")
    built.built("merge")
    listed = {entry["fingerprint"]: entry for entry in json.loads(built.run("tunemake", "store", "list", "--json").out)}
    # the evaluation that is still shown was made from it
    assert (listed[old]["stage"], listed[old]["reachable"], listed[old]["shown_by"]) == ("train", True, [])
    table = built.run("tunemake", "store", "list").out
    assert re.search(rf"train-{old} +[0-9.]+ [kM]B +\d+ [smh]  something shown was made from it", table)
    assert "  build/default/merged\n" in table
    assert built.run("tunemake", "store", "verify").code == 0
    weights = next((built.root / "build/default/merged").resolve().glob("*.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    told = built.run("tunemake", "store", "verify")
    assert told.code == 1
    assert f"{weights.parent.name}/{weights.name} is not as recorded" in told.out


def test_gc_removes_what_no_link_needs_but_nothing_that_a_running_training_reads(built):
    built.edit("steps = 4", "steps = 4000")
    process = built.start("doit", "train")
    wait_for(lambda: any((work / "metrics.jsonl").exists() for work in built.work("train")))
    links = {name: (built.root / "build" / name).resolve() for name in ("base/tiny", "default/data", "default/config")}
    assert built.doit("clean").code == 0
    told = built.run("tunemake", "gc", "--work", "--dry-run").out
    assert "would remove merge-" in told
    done = built.run("tunemake", "gc", "--work")
    assert done.code == 0, done.told()
    assert done.out.count("a build holds it") == 5, done.out
    assert all(entry.is_dir() for entry in links.values())
    assert not list((built.root / "build/.store").glob("merge-*"))
    assert re.search(r"^removed \d+, [0-9.]+ MB$|^removed \d+, [0-9.]+ kB$", done.out, re.MULTILINE)
    assert process.poll() is None
    kill(process)
    wait_for(lambda: not processes_of(built.root / "build"))
    assert (
        "checkpoints to go on from; --work removes it" in built.run("tunemake", "gc").out or built.work("train") == []
    )
    assert built.run("tunemake", "gc", "--older-than", "soon").code == 2
