"""tunemake publish: the merged model, or its adapter, with its card: into a folder, or onto Hugging Face's hub.

Only what is up to date and has passed its gate; every file is held against its record before anyone gets it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunemake.artifacts import read_record
from tunemake.building import Builder
from tunemake.commands.scaffolds import write_folder
from tunemake.commands.store import amount
from tunemake.digests import sha256_of_file
from tunemake.faults import Fault, InputError, StageError, did_you_mean
from tunemake.models import parse_source
from tunemake.project import Project, machine_environment
from tunemake.reports.card import HERE, files_of
from tunemake.stages.report import ADAPTER_CARD, CARD
from tunemake.withholding import verdict

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_HUB = "hf:"
_CARD = "README.md"
_REFUSED = {401, 403}
# What an earlier model may have left there, and would be loaded instead of this one or with it.
_REPLACED = ["*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "chat_template.jinja"]
_NOTHING = "nothing was published"
_LONGEST = 200  # letters of what another library raises


@dataclass(frozen=True)
class Parcel:
    """What is published. files: by name; sizes, digests: as recorded. card: README.md's text. told: the artifact."""

    files: dict[str, Path]
    sizes: dict[str, int]
    digests: dict[str, str]
    card: str
    told: str


def publish(
    builder: Builder, target: str, variant: str | None, api: Callable[[], HfApi] | None = None, *,
    adapter: bool = False, private: bool = False,
) -> Iterator[str]:  # fmt: skip
    """Publish a variant's model; give lines that say what is done.

    target: a folder that is not there or empty, or hf:org/name. api: gives the hub's client; default: the real one,
    with the token of the environment. private: a repository that is made anew is. Raises InputError where the model is
    not built, not up to date, or its gate has not passed; StageError where the hub or the disk refuses.
    """
    project = _project(builder, variant)
    hub = _hub_of(target) if target.startswith(_HUB) else None
    parcel = _parcel(builder, project, adapter=adapter)
    size = amount(sum(parcel.sizes.values()))
    if hub is None:
        folder = Path(target)
        write_folder(folder, {**parcel.files, _CARD: parcel.card})
        yield f"{folder}: {len(parcel.files) + 1} files, {size}, of {parcel.told}"
        return
    client = (api or _client)()
    yield f"sending {len(parcel.files) + 1} files, {size}"
    yield f"{_send(client, hub, _addressed(parcel, hub), private=private)}: {parcel.told}"


def _project(builder: Builder, variant: str | None) -> Project:
    known = builder.projects
    if variant is None and len(known) > 1:
        raise InputError(Fault("publish", "the project has variants", next_step=f"--variant {', '.join(known)}"))
    name = variant or next(iter(known))
    if name not in known:
        raise InputError(Fault(f"--variant {name}", "no such variant", next_step=did_you_mean(name, known) or
                               f"there are {', '.join(known)}"))  # fmt: skip
    return known[name]


def _parcel(builder: Builder, project: Project, *, adapter: bool) -> Parcel:
    what, card = ("adapter", ADAPTER_CARD) if adapter else ("merged", CARD)
    if adapter and project.train["method"] == "full":
        raise InputError(Fault("--adapter", "a full fine-tuning has none", next_step="publish the merged model"))
    folder = _fresh(builder, project, what)
    _passed(builder, project)
    text = _fresh(builder, project, "report").joinpath(card).read_text("utf-8")
    record = read_record(folder)
    assert record is not None  # it was found fresh just now
    sizes = files_of(folder, record)
    parcel = Parcel({name: folder / name for name in sizes}, sizes,
                    {name: record["outputs"][name]["sha256"] for name in sizes}, text, folder.name)  # fmt: skip
    _whole(parcel, f"build/{project.variant.name}/{what}")
    return parcel


def _fresh(builder: Builder, project: Project, what: str) -> Path:
    """Give the artifact that build/VARIANT/WHAT shows; raises InputError where it is not up to date."""
    link = f"build/{project.variant.name}/{what}"
    name = next((stage.name for stage in builder.stages.values() if link in stage.links), None)
    if name is None:
        raise InputError(Fault(link, "the project builds none"))
    step = f"run doit {name}"
    try:
        state = builder.state(name)
        stale = builder.stale_below(name)
    except InputError as error:
        raise InputError([*error.faults, Fault(link, "is not built", next_step=step)]) from None
    if not state.fresh:
        raise InputError(Fault(link, "is not up to date", got=state.reasons[0], next_step=step))
    if stale:
        raise InputError(Fault(link, f"was made from what is not up to date: {', '.join(stale)}", next_step=step))
    return builder.store.entry(state.decides)


def _passed(builder: Builder, project: Project) -> None:
    """Raise InputError where the project has a gate, and it has not said of this very model that it passed."""
    if project.evaluate is None:
        return
    told = verdict(_fresh(builder, project, "gate"))
    if told is None or not told["passed"]:
        probes = told["probes"] if told is not None else []
        failed = [probe["name"] for probe in probes if probe["required"] and not probe["passed"]]
        raise InputError(Fault("publish", "the model has not passed its gate", got=", ".join(failed) or None,
                               next_step="nothing was published; the report says which answers failed"))  # fmt: skip


def _whole(parcel: Parcel, link: str) -> None:
    """Read every file and compare it with its record: damage to a disk changes neither size nor time."""
    wrong = [name for name, path in parcel.files.items() if sha256_of_file(path) != parcel.digests[name]]
    if wrong:
        step = "tunemake store verify"
        raise InputError([Fault(f"{link}/{name}", "is not as recorded", next_step=step) for name in wrong])


def _hub_of(target: str) -> str:
    told = parse_source(target)
    if told.revision is not None:
        raise InputError(Fault(target, "a revision cannot be published", expected=f"{_HUB}{told.name}"))
    return told.name


def _addressed(parcel: Parcel, hub: str) -> Parcel:
    """Give the parcel with the model's name on the hub in the card's example."""
    return replace(parcel, card=parcel.card.replace(HERE, f'model_name = "{hub}"'))


def _client() -> HfApi:
    from huggingface_hub import HfApi

    token = machine_environment().get("HF_TOKEN")
    if not token:
        raise InputError(Fault("HF_TOKEN", "is not set", next_step="put a token that may write to the hub there"))
    return HfApi(token=token, library_name="tunemake")


def _refuse_public(client: HfApi, hub: str) -> None:
    if not client.repo_info(hub).private:
        raise StageError(Fault(f"{_HUB}{hub}", "is there already, and public", next_step=_NOTHING))


def _send(client: HfApi, hub: str, parcel: Parcel, *, private: bool) -> str:
    """Upload in one commit, so that nobody sees half of it; give its address."""
    from huggingface_hub.errors import HfHubHTTPError

    # Links to files in the store: nothing is copied.
    with tempfile.TemporaryDirectory(prefix="tunemake-") as folder:
        for name, path in parcel.files.items():
            place = Path(folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path.resolve())
        Path(folder, _CARD).write_text(parcel.card, "utf-8")
        try:
            client.create_repo(hub, private=private or None, exist_ok=True)
            if private:
                _refuse_public(client, hub)
            made: Any = client.upload_folder(
                repo_id=hub, folder_path=folder, commit_message=f"tunemake: {parcel.told}", delete_patterns=_REPLACED
            )
        except StageError:
            raise
        except HfHubHTTPError as error:
            code = getattr(error.response, "status_code", None)  # none in some of its kinds
            told = "the token of HF_TOKEN may not write there" if code in _REFUSED else "the hub refuses what is sent"
            raise StageError(
                Fault(f"{_HUB}{hub}", told, got=f"HTTP {code}" if code else None, next_step=_NOTHING)
            ) from None
        except Exception as error:  # noqa: BLE001 - the client raises whatever its HTTP library does
            lines = f"{type(error).__name__}: {error}".splitlines()
            told = "the upload failed; the hub may not be reached"
            raise StageError(Fault(f"{_HUB}{hub}", told, got=lines[0][:_LONGEST], next_step=_NOTHING)) from None
    return str(made.commit_url)
