"""A trained model in one file, to be given away: a zip file without pickles.

    MODEL_CARD.md                            for people
    SHA256SUMS                               of the other members, as sha256sum -c reads them
    bundle.json                              settings, labels, calibration, what the card says
    weights/{network}/stage1.safetensors     of each fold, or of all-data
    weights/{network}/stage2.safetensors

The same content makes the same bytes: names are sorted, dates are fixed, nothing is compressed. The
last 64 bytes, the zip file's comment, are the SHA-256 of all bytes before them: the seal.
"""

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from torch import Tensor

from src.artifacts.archive import MOST_READ, Bounded, read_hashed, stored_entries
from src.artifacts.atomic import atomic
from src.artifacts.calibration import Calibration, calibration_of, content_of
from src.artifacts.checkpoints import JOINED, KNOWN, require_checkpoint, require_joined
from src.artifacts.files import MOST_JSON, parse_json, reading
from src.artifacts.paths import ALL_DATA, ArtifactError
from src.labels import LABELS
from src.text import printable

FORMAT = 1
CARD, SUMS, MANIFEST = "MODEL_CARD.md", "SHA256SUMS", "bundle.json"
MANIFEST_TYPES = {"format": int, "labels": list, "networks": dict, "about": dict}
NETWORK = re.compile(rf"fold-[0-9]{{1,4}}|{ALL_DATA}", re.ASCII)
STAGES = ("stage1", "stage2")
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can name
FILE_MODE = 0o644 << 16
SEAL = 64  # characters
WHAT, AGAIN = "a whole bundle of tools/export_bundle.py", "get the file again from who made it"


class Bundle(NamedTuple):
    """What prediction needs of a bundle."""

    networks: dict[str, dict]  # {"fold-0": content as of weights_inference.pth}
    calibration: Calibration | None  # None if none was fitted
    seal: str  # SHA-256, which tells it from all others
    about: dict  # plain values that no program needs, unchecked


def write_bundle(
    path: Path,
    networks: dict[str, dict],
    calibration: Calibration | None,
    about: dict,
    card: str,
) -> None:
    """Write a bundle.

    networks: {"fold-0": content of weights_inference.pth}. Of its settings those are kept that are
        numbers or that this project knows: other texts may name folders and people.
    calibration: None if none was fitted.
    about: plain values that no program needs.
    """
    described = {name: _described(joined) for name, joined in networks.items()}
    manifest = {
        "format": FORMAT,
        "labels": list(LABELS),
        "networks": described,
        "calibration": content_of(calibration) if calibration else None,
        "about": about,
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False)
    made = {CARD: lambda: card.encode(), MANIFEST: lambda: text.encode()}
    for name, joined in networks.items():
        for stage in STAGES:
            made[_weights(name, stage)] = lambda weights=joined[stage]: _packed(weights)
    sums = {name: hashlib.sha256(make()).hexdigest() for name, make in made.items()}
    made[SUMS] = lambda: _sums_text(sums).encode()
    with atomic(path, "w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = b"0" * SEAL
            for name in sorted(made):
                entry = zipfile.ZipInfo(name, FIRST_DAY)
                entry.create_system, entry.external_attr = 3, FILE_MODE
                archive.writestr(entry, made[name]())
        seal = _digest(file)
        file.seek(-SEAL, 2)
        file.write(seal.encode())


def require_sealed(path: Path) -> str:
    """Return the seal. Raise ArtifactError if a byte of the file has changed since it was set."""
    with reading(path, WHAT, AGAIN), open(path, "rb") as file:
        return _seal_of(file)


def read_bundle(path: Path) -> Bundle:
    """Return a bundle, its tensors on the CPU.

    Raise ArtifactError if a byte has changed, if it has other members than a bundle, or if what
    it holds would be refused in a checkpoint.
    """
    with reading(path, WHAT, AGAIN), Bounded(path) as file:
        seal = _seal_of(file)
        with zipfile.ZipFile(file) as archive:
            entries = stored_entries(archive, path.stat().st_size)
            manifest = _read_manifest(path, archive, entries)
            networks, sums = {}, {}
            for name in sorted(manifest["networks"]):
                joined = _settings_of(manifest, name) | {"labels": manifest["labels"]}
                for stage in STAGES:
                    member = _weights(name, stage)
                    content, sums[member] = read_hashed(archive, entries[member])
                    joined[stage] = _unpacked(content)
                require_checkpoint(path, joined, JOINED)
                networks[name] = require_joined(path, joined)
            _require_sums(archive, entries, sums)
        calibration = manifest["calibration"]
        if calibration is not None:
            calibration = calibration_of(path, calibration)
    return Bundle(networks, calibration, seal, manifest["about"])


def _described(joined: dict) -> dict:
    """Return settings and prior of one network, without texts that are nobody's business."""
    found: dict[str, Any] = {"prior": joined["prior"]}
    for stage in STAGES:
        name = f"{stage}_settings"
        kept = {}
        for setting, value in joined[name].items():
            if setting in KNOWN or not isinstance(value, str):
                kept[setting] = value
        found[name] = kept
    return found


def _weights(name: str, stage: str) -> str:
    return f"weights/{name}/{stage}.safetensors"


def _packed(weights: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    # Copies: two names of one tensor are refused, and so is one that is not contiguous.
    return save({name: tensor.contiguous().clone() for name, tensor in weights.items()})


def _unpacked(content: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(content)


def _sums_text(sums: dict[str, str]) -> str:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def _digest(file: BinaryIO) -> str:
    """Return the SHA-256 of all but the last SEAL bytes."""
    left = file.seek(0, 2) - SEAL
    file.seek(0)
    found = hashlib.sha256()
    while left > 0:
        part = file.read(min(left, MOST_READ))
        if not part:
            raise ValueError("it is cut short")
        found.update(part)
        left -= len(part)
    return found.hexdigest()


def _seal_of(file: BinaryIO) -> str:
    if file.seek(0, 2) <= SEAL:
        raise ValueError("it is cut short")
    file.seek(-SEAL, 2)
    written = file.read(SEAL)
    found = _digest(file)
    if written != found.encode():
        raise ValueError("it was changed or cut: its SHA-256 is not the one at its end")
    return found


def _read_manifest(path: Path, archive: zipfile.ZipFile, entries: dict) -> dict:
    """Return bundle.json; raise an error if the members are not just those that it needs."""
    if MANIFEST not in entries:
        raise ValueError(f"it has no {MANIFEST}")
    if entries[MANIFEST].file_size > MOST_JSON:
        raise ValueError(f"{MANIFEST} has more than {MOST_JSON >> 20} MiB")
    content, _ = read_hashed(archive, entries[MANIFEST])
    manifest = parse_json(content.decode())
    if manifest.get("format") != FORMAT:
        other = printable(manifest.get("format"), 20)
        raise ArtifactError(
            f"{path} is a bundle of format {other}, this version reads format {FORMAT}: "
            "take the version of this project that made it"
        )
    for name, kind in MANIFEST_TYPES.items():
        if type(manifest.get(name)) is not kind:
            raise ValueError(f"{MANIFEST} has no {name!r}")
    if not isinstance(manifest.get("calibration", 0), dict | None):
        raise ValueError(f"{MANIFEST} has no 'calibration'")
    needed = {CARD, SUMS, MANIFEST}
    for name in manifest["networks"]:
        if not NETWORK.fullmatch(name):
            raise ValueError(f"{printable(name, 80)!r} is no name of a network")
        needed |= {_weights(name, stage) for stage in STAGES}
    if not manifest["networks"]:
        raise ValueError("it holds no network")
    for name in sorted(entries.keys() - needed):
        raise ValueError(f"{printable(name, 80)!r} is no part of one")
    for name in sorted(needed - entries.keys()):
        raise ValueError(f"it has no {name}")
    return manifest


def _settings_of(manifest: dict, name: str) -> dict:
    """Return prior and settings of a network, pairs of numbers as tuples again."""
    network = manifest["networks"][name]
    if type(network) is not dict:
        raise ValueError(f"{MANIFEST} has no settings of {name}")
    for settings in network.values():
        for setting, allowed in KNOWN.items():
            is_pair = type(allowed) is tuple and type(settings) is dict
            if is_pair and type(settings.get(setting)) is list:
                settings[setting] = tuple(settings[setting])
    return network


def _require_sums(archive: zipfile.ZipFile, entries: dict, sums: dict[str, str]) -> None:
    """Raise ValueError if the checksums are not those of the members.

    sums: of the members that were read before.
    """
    for name in (CARD, MANIFEST):
        _, sums[name] = read_hashed(archive, entries[name])
    text, _ = read_hashed(archive, entries[SUMS])
    if text != _sums_text(sums).encode():
        raise ValueError(f"{SUMS} does not fit the other members")
