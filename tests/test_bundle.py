"""The file format of a bundle: the same bytes from the same content, and no other is read."""

import hashlib
import json
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from src.artifacts import bundle
from src.artifacts.calibration import Calibration
from src.artifacts.paths import ArtifactError
from src.labels import LABELS

SETTINGS = {
    "stage1_settings": {
        "encoder": "net",
        "heatmap_weight": 0.1 + 0.2,
        "crop_size": 40,
        "view_mm": 0.0,
        "step_mm": (1.5, 3.0),
        "image_size": 48,
        "mr_window": "percentiles",
        "data_dir": "/home/roe/data",
        "lr": 1e-3,
    },
    "stage2_settings": {
        "channels": 3,
        "width": 16,
        "layers": 2,
        "heads": 1,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "stage1_weight": 0.4,
        "cut": 7,
        "step": 2,
        "choices": [[1, 0.0, 0.5], [2, 0.4, None]],
    },
}
SETTINGS["stage1_settings"]["regions"] = {"left": [[k - 6.0, 2.5, k + 2.0] for k in range(13)]}
WEIGHTS = "weights/fold-0/stage1.safetensors"
CALIBRATION = Calibration(1 + np.arange(14) / 10, np.arange(14) - 7.0, (0.5, 1.0))


def network(seed: int = 0) -> dict:
    torch.manual_seed(seed)
    table = torch.randn(4, 3)
    first = {"a": table.T, "of_a": table[1], "half": torch.randn(5).half(), "n": torch.tensor(3)}
    second = {"b": torch.randn(2, 2, dtype=torch.float64), "none": torch.empty(0, 3)}
    prior = [k / 15 for k in range(14)]
    return {"stage1": first, "stage2": second, "prior": prior, **SETTINGS}


def write(path: Path, networks: dict | None = None, calibration: Calibration | None = None) -> Path:
    networks = networks or {"fold-0": network(), "all-data": network(1)}
    bundle.write_bundle(path, networks, calibration, {"dataset": "demo"}, "# A card\n")
    return path


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bundle") / "a.zip", calibration=CALIBRATION)


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def remade(path: Path, members: dict[str, bytes], sums: bool = True, **options) -> Path:
    """Write these members with a seal that fits, as anyone can who has read the code."""
    if sums and bundle.SUMS in members:
        digests = {n: hashlib.sha256(m).hexdigest() for n, m in members.items() if n != bundle.SUMS}
        lines = [f"{digests[name]}  {name}\n" for name in sorted(digests)]
        members = members | {bundle.SUMS: "".join(lines).encode()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.comment = b"0" * 64
        for name, content in members.items():
            archive.writestr(name, content)
    return sealed(path, path.read_bytes())


def sealed(path: Path, content: bytes) -> Path:
    path.write_bytes(content[:-64] + hashlib.sha256(content[:-64]).hexdigest().encode())
    return path


def test_what_is_written_is_read(written):
    found = bundle.read_bundle(written)
    assert list(found.networks) == ["all-data", "fold-0"]
    for name, seed in (("fold-0", 0), ("all-data", 1)):
        expected, joined = network(seed), found.networks[name]
        for stage in ("stage1", "stage2"):
            assert joined[stage].keys() == expected[stage].keys()
            for key, tensor in expected[stage].items():
                assert joined[stage][key].dtype == tensor.dtype
                assert torch.equal(joined[stage][key], tensor)
        first = expected["stage1_settings"].copy()
        assert first.pop("data_dir")  # names people
        assert joined["stage1_settings"] == first
        assert joined["stage2_settings"] == expected["stage2_settings"]
        assert joined["prior"] == expected["prior"]
    for name, values in CALIBRATION._asdict().items():
        np.testing.assert_array_equal(getattr(found.calibration, name), values)
    assert found.seal == hashlib.sha256(written.read_bytes()[:-64]).hexdigest()


def test_the_same_content_gives_the_same_bytes_in_order(written, tmp_path):
    networks = {"all-data": network(1), "fold-0": network()}
    again = write(tmp_path / "b.zip", networks, CALIBRATION)
    assert again.read_bytes() == written.read_bytes()
    with zipfile.ZipFile(again) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
    names = [info.filename for info in infos]
    assert names == sorted(names) and WEIGHTS in names
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {stat.S_IMODE(info.external_attr >> 16) for info in infos} == {0o644}


def test_it_holds_no_pickle_and_nothing_of_the_user(written):
    content = written.read_bytes()
    assert b"/home/roe" not in content and b".pkl" not in content
    for name, member in members_of(written).items():
        assert Path(name).suffix in ("", ".md", ".json", ".safetensors")
        assert not member.startswith((b"\x80", b"PK", b"\x93NUMPY"))


def test_sha256sum_finds_its_own_sums(written):
    members = members_of(written)
    lines = members[bundle.SUMS].decode().splitlines()
    assert {line[66:] for line in lines} == members.keys() - {bundle.SUMS}
    for line in lines:
        assert hashlib.sha256(members[line[66:]]).hexdigest() == line[:64]


def test_one_changed_byte_is_refused_wherever_it_is(written, tmp_path):
    content, other = written.read_bytes(), tmp_path / "changed.zip"
    places = {content.index(text) for text in (b"# A card", b"safetensors", b"PK\x01\x02")}
    places |= set(range(0, len(content), 211)) | {0, 10, len(content) - 80, len(content) - 1}
    for place in places:  # among them dates and sizes of the zip file's headers
        other.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ArtifactError, match="it was changed or cut"):
            bundle.read_bundle(other)
        with pytest.raises(ArtifactError, match="it was changed or cut"):
            bundle.require_sealed(other)
    for end in (0, 1, 64, 65, len(content) // 2, len(content) - 1):
        other.write_bytes(content[:end])
        with pytest.raises(ArtifactError, match="cut"):
            bundle.read_bundle(other)


def edited(members: dict[str, bytes], change) -> dict[str, bytes]:
    manifest = json.loads(members[bundle.MANIFEST])
    change(manifest)
    return members | {bundle.MANIFEST: json.dumps(manifest).encode()}


def swapped(manifest: dict) -> None:
    manifest["labels"][:2] = manifest["labels"][1::-1]


EDITS = {
    "other labels": (swapped, "another order"),
    "labels of a network": (
        lambda manifest: (swapped(manifest), manifest["networks"]["fold-0"].update(labels=LABELS)),
        "another order",
    ),
    "no labels": (lambda manifest: manifest.pop("labels"), "no 'labels'"),
    "another format": (lambda manifest: manifest.update(format=2), "format 2"),
    "a strange step": (
        lambda manifest: manifest["networks"]["fold-0"]["stage2_settings"].update(step=3),
        "the setting step is 3",
    ),
    "an address as encoder": (
        lambda manifest: manifest["networks"]["fold-0"]["stage1_settings"].update(
            encoder="hf-hub:a/b"
        ),
        "the setting encoder",
    ),
    "no crop size": (
        lambda manifest: manifest["networks"]["fold-0"]["stage1_settings"].pop("crop_size"),
        "crop_size is missing",
    ),
    "a strange prior": (
        lambda manifest: manifest["networks"]["fold-0"].update(prior=[2] * 14),
        "prior",
    ),
    "no settings": (lambda manifest: manifest["networks"].update({"fold-0": 3}), "no settings"),
    "a path as network": (
        lambda manifest: manifest["networks"].update({"../fold-0": {}}),
        "no name of a network",
    ),
    "no network": (lambda manifest: manifest["networks"].clear(), "no network"),
    "strange calibration": (
        lambda manifest: manifest["calibration"]["labels"][LABELS[0]].update(scale=-1),
        "no scale above 0",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_a_checkpoint_may_not_say_a_bundle_may_not_say(name, written, tmp_path):
    change, said = EDITS[name]
    path = remade(tmp_path / "b.zip", edited(members_of(written), change))
    with pytest.raises(ArtifactError, match=said):
        bundle.read_bundle(path)


def test_a_remade_bundle_is_read_else_these_tests_prove_nothing(written, tmp_path):
    members = edited(members_of(written), lambda manifest: manifest["about"].update(more=1))
    assert bundle.read_bundle(remade(tmp_path / "b.zip", members)).calibration is not None


@pytest.mark.parametrize("name", ["../a.txt", "/a.txt", "weights/fold-0/a.pkl", "a\x1b[31m", "b"])
def test_other_members_are_refused_and_shown_safely(name, written, tmp_path):
    path = remade(tmp_path / "b.zip", members_of(written) | {name: b"0"})
    with pytest.raises(ArtifactError, match="is no part of one") as caught:
        bundle.read_bundle(path)
    assert "\x1b" not in str(caught.value) and not (tmp_path.parent / "a.txt").exists()


@pytest.mark.parametrize("name", [WEIGHTS, bundle.CARD, bundle.SUMS, bundle.MANIFEST])
def test_a_missing_member_is_named(name, written, tmp_path):
    members = members_of(written)
    del members[name]
    with pytest.raises(ArtifactError, match=f"it has no {name}"):
        bundle.read_bundle(remade(tmp_path / "b.zip", members))


@pytest.mark.parametrize("name", [WEIGHTS, bundle.CARD])
def test_a_checksum_that_does_not_fit_is_refused(name, written, tmp_path):
    members = members_of(written)
    changed = bytearray(members[name])
    changed[-1] ^= 1
    path = remade(tmp_path / "b.zip", members | {name: bytes(changed)}, sums=False)
    with pytest.raises(ArtifactError, match=f"{bundle.SUMS} does not fit"):
        bundle.read_bundle(path)


def test_weights_that_are_none_are_refused(written, tmp_path):
    members = members_of(written)
    for content in (b"", b"\x80\x04N.", members[WEIGHTS][:-4], b"\xff" * 64):
        with pytest.raises(ArtifactError, match="is not a whole bundle"):
            bundle.read_bundle(remade(tmp_path / "b.zip", members | {WEIGHTS: content}))
    broken = network()
    broken["stage1"]["half"][2] = torch.inf
    with pytest.raises(ArtifactError, match="half are not finite"):
        bundle.read_bundle(write(tmp_path / "b.zip", {"fold-0": broken}))


def test_bombs_are_refused_from_their_headers(written, tmp_path):
    members = members_of(written)
    deflated = remade(tmp_path / "b.zip", members, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="compressed"):
        bundle.read_bundle(deflated)
    content = bytearray(remade(tmp_path / "c.zip", members).read_bytes())
    at = content.rindex(WEIGHTS.encode()) - 46  # its entry in the list at the end
    content[at + 20 : at + 28] = (2**31).to_bytes(4, "little") * 2
    with pytest.raises(ArtifactError, match="larger than the file"):
        bundle.read_bundle(sealed(tmp_path / "c.zip", bytes(content)))


def test_what_is_no_bundle_is_one_sentence(tmp_path):
    for content in (b"", b"hello" * 30, b"PK\x03\x04" * 99):
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(ArtifactError, match="is not a whole bundle"):
            bundle.read_bundle(tmp_path / "a.zip")
    sealed(tmp_path / "a.zip", b"hello" * 30)
    for path, said in (("a.zip", "is not a whole bundle"), ("", "is no file"), ("b", "is missing")):
        with pytest.raises(ArtifactError, match=said):
            bundle.read_bundle(tmp_path / path)
