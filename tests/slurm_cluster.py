"""A Slurm on one machine: started with a configuration and a key of its own, and ended with all that it runs."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WITH_US = ("setpriv", "--pdeathsig", "TERM")  # it ends when the tests do, however they end
PROGRAMS = ("sbatch", "slurmctld", "slurmd", "munged")
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
ReturnToService=2
KillWait=15
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 State=UNKNOWN"


def lacking() -> str | None:
    """Say what keeps a Slurm from being started here, or None."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "slurmd is started by root alone"


class Cluster:
    """A Slurm that runs; end() ends it. nodes: how many it has, each with a slurmd of its own."""

    def __init__(self, nodes: int = 1) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        self.conf = self.folder / "slurm.conf"
        host, names = socket.gethostname().split(".")[0], [f"n{number + 1}" for number in range(nodes)]
        told = "\n".join(NODE.format(name=name, host=host, port=_free_port()) for name in names)
        self.conf.write_text(CONF.format(host=host, folder=self.folder, port=_free_port(), nodes=told))
        self._environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        self._daemons = [_munged(self.folder / "munge")]
        for command in (["slurmctld", "-D", "-i"], *(["slurmd", "-D", "-N", name] for name in names)):
            self._daemons.append(subprocess.Popen([*_WITH_US, *command], env=self._environment, start_new_session=True))
        ready = f"{nodes} idle"
        _wait_for(lambda: ready in self.run("sinfo", "--noheader", "--format=%D %t").splitlines(), self.folder)

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands; give what it prints."""
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr

    def end(self) -> None:
        """End all jobs, then the daemons."""
        self.run("scancel", "--me")
        self.run("scancel", "--me", "--signal=KILL")
        _wait_for(lambda: not self.run("squeue", "--noheader").strip(), self.folder)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)
        shutil.rmtree(self.folder)


@contextmanager
def running(nodes: int = 1) -> Iterator[Cluster]:
    """Have one run to which this process's commands, and those that it starts, talk."""
    made, before = Cluster(nodes), os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(made.conf)
    yield made
    made.end()
    del os.environ["SLURM_CONF"]
    if before is not None:
        os.environ["SLURM_CONF"] = before


def _munged(folder: Path) -> subprocess.Popen[bytes]:
    """Start munged with a key of its own, as the user that its package makes."""
    user = pwd.getpwnam("munge")
    folder.mkdir(mode=0o755)
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o400)
    for path in (folder, folder / "key"):
        os.chown(path, user.pw_uid, user.pw_gid)
    files = [f"--{name}={folder / place}" for name, place in
             (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"),
              ("seed-file", "seed"))]  # fmt: skip
    daemon = subprocess.Popen(
        [*_WITH_US, "munged", "--foreground", *files], user=user.pw_uid, group=user.pw_gid, extra_groups=[],
        start_new_session=True,
    )  # fmt: skip
    _wait_for((folder / "socket").exists, folder)
    return daemon


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(condition, folder: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*log"))
        assert time.monotonic() < end, f"Slurm did not do it in time:\n{logs}"
        time.sleep(0.1)
