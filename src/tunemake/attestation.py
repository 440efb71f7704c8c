"""A signed statement of what a build came to, in in-toto's form. All cryptography is securesystemslib's.

Subjects are the files of the merged models, the predicate is tunemake.lock as it was checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tunemake.digests import replace_text, sha256_of_file
from tunemake.faults import Fault, InputError

FILE = "tunemake.intoto.json"
STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "urn:x-tunemake:lock:1"
_PAYLOAD = "application/vnd.in-toto+json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EXTRA = "pip install 'tunemake[sign]'"


def statement(lock: Mapping[str, Any]) -> dict[str, Any]:
    """Give the statement that a lock makes of its merged models."""
    subjects = [
        {"name": f"{told['links'][0]}/{name}", "digest": {"sha256": digest}}
        for stage, told in lock["stages"].items() if stage.partition(":")[0] == "merge"
        for name, digest in told["outputs"].items()
    ]  # fmt: skip
    return {"_type": STATEMENT, "subject": subjects, "predicateType": PREDICATE, "predicate": lock}


def sign(told: Mapping[str, Any], key: Path, file: Path) -> None:
    """Write a statement, signed, to a file; raises InputError for a key that cannot sign, or a file not writable.

    key: a private key in PEM form (PKCS #8; Ed25519, ECDSA or RSA), without a password.
    """
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import CryptoSigner
    except ImportError as error:
        raise InputError(Fault("attest", "signing needs securesystemslib", next_step=_EXTRA)) from error
    payload = json.dumps(told, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    envelope = Envelope(payload, _PAYLOAD, {})
    try:
        envelope.sign(CryptoSigner(load_pem_private_key(key.read_bytes(), None)))
    except OSError as error:
        raise InputError(Fault(str(key), f"cannot be read: {error.strerror}")) from error
    except Exception as error:  # the libraries raise many kinds for what is no key
        expected = "a private key in PEM form, without a password"
        raise InputError(Fault(str(key), f"cannot sign: {_first_line(error)}", expected)) from error
    try:
        replace_text(file, json.dumps(envelope.to_dict(), indent=1) + "\n")
    except OSError as error:
        raise InputError(Fault(str(file), f"cannot be written: {error.strerror}")) from error


def signed_statement(file: Path, public_key: Path) -> dict[str, Any] | None:
    """Read a signed statement; None where no signature of it is of this key. Raises InputError for what is none."""
    try:
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
        from securesystemslib.signer import SSlibKey
    except ImportError as error:
        raise InputError(Fault("verify", "checking a signature needs securesystemslib", next_step=_EXTRA)) from error
    content = {path: _read(path) for path in (file, public_key)}
    try:
        key = SSlibKey.from_crypto(load_pem_public_key(content[public_key]))
    except Exception as error:  # the libraries raise many kinds for what is no key
        expected = "a public key in PEM form"
        raise InputError(Fault(str(public_key), f"no key: {_first_line(error)}", expected)) from error
    try:
        envelope = Envelope.from_dict(json.loads(content[file]))
    except Exception as error:  # whatever it is, it is no envelope
        raise InputError(Fault(str(file), f"no DSSE envelope: {_first_line(error)}")) from error
    for signature in envelope.signatures.values():  # a signature's keyid is a hint that nobody signed
        try:
            key.verify_signature(signature, envelope.pae())
        except (UnverifiedSignatureError, VerificationError):
            continue
        return _statement(file, envelope.payload_type, envelope.payload)
    return None


def subject_flaws(told: Mapping[str, Any], root: Path, folder: Path | None) -> tuple[int, list[str]]:
    """Read the files that a statement is of; give how many there are, and those that are not as it says.

    folder: a copy of one of the models; by default all of them are where the project in root has them.
    """
    by_folder: dict[str, dict[str, str]] = {}
    for subject in told["subject"]:
        place, _, name = subject["name"].rpartition("/")
        by_folder.setdefault(place, {})[name] = subject["digest"]["sha256"]
    if folder is None:
        found = [flaw for place, files in by_folder.items() for flaw in _flaws(root / place, f"{place}/", files)]
        return len(told["subject"]), found
    # Of several variants, the one that the copy is most like.
    each = [(files, _flaws(folder, f"{folder}/", files)) for files in by_folder.values()]
    files, flaws = min(each, key=lambda pair: len(pair[1]))
    return len(files), flaws


def _flaws(folder: Path, title: str, files: Mapping[str, str]) -> list[str]:
    found = []
    for name, digest in files.items():
        try:
            if sha256_of_file(folder / name) != digest:
                found.append(f"{title}{name} is not what was signed")
        except OSError as error:
            found.append(f"{title}{name}: {error.strerror}")
    return found


def _statement(file: Path, kind: str, payload: bytes) -> dict[str, Any]:
    try:
        told = json.loads(payload)
        right = kind == _PAYLOAD and told["_type"] == STATEMENT and told["predicateType"] == PREDICATE
        right = right and _are_subjects(told["subject"]) and isinstance(told["predicate"]["stages"], dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        right = False
    if not right:
        raise InputError(Fault(str(file), "signed, but no statement of a build by tunemake", expected=PREDICATE))
    return dict(told)


def _are_subjects(subjects: Iterable[Any]) -> bool:
    listed = list(subjects)
    return bool(listed) and all(
        _SHA256.fullmatch(subject["digest"]["sha256"])
        and not Path(subject["name"]).is_absolute()
        and ".." not in Path(subject["name"]).parts
        for subject in listed
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(Fault(str(path), f"cannot be read: {error.strerror}")) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:100]
