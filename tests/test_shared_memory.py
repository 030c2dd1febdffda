"""Too little shared memory costs loader processes, but no sample and no run."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from src.sampling import loader, shared_memory
from src.sampling.loader import batches_of, empty_images, make_loader
from src.sampling.shared_memory import fitting_workers
from src.script import UserError

Usage = namedtuple("Usage", "total used free")
MB = 1 << 20
OF_MOUNTS = 0x20000  # CLONE_NEWNS, for unshare
NOT_ALLOWED = 77  # exit code
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a /dev/shm of its own")


class Noise(Dataset):
    """Images of which each depends on its key."""

    def __len__(self):
        return 24

    def __getitems__(self, keys):
        images = empty_images((len(keys), 3, 64, 64))
        for image, key in zip(images, keys, strict=True):
            noise = np.random.default_rng(list(key)).random(image.shape, np.float32)
            image.copy_(torch.from_numpy(noise))
        return {"images": images, "index": torch.tensor([row for _, row in keys])}


def digest(workers: int) -> tuple[int, str]:
    """Return the loader's processes, and a fingerprint of two epochs of batches."""
    batches, found = make_loader(Noise(), 4, workers, shuffle_seed=1), hashlib.sha256()
    for epoch in range(2):
        batches.sampler.epoch = epoch
        for batch in batches_of(batches):
            found.update(batch["images"].numpy().tobytes() + batch["index"].numpy().tobytes())
    return batches.num_workers, found.hexdigest()


@pytest.mark.parametrize(
    ("free", "workers", "fits"),
    [
        (64 * MB, 4, 4),
        (64 * 1024, 4, 0),
        (7 * MB, 4, 1),  # 1 for semaphores; batches of 1 and a page: 2 outside, 2 a process
        (8 * MB, 4, 2),
        (8 * MB, 1, 1),
        (0, 0, 0),
    ],
)
def test_as_many_processes_as_there_is_memory_for(free, workers, fits, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free, 0, free))
    shared_memory._say.cache_clear()
    batch = {"images": torch.empty(MB, dtype=torch.uint8), "index": torch.empty(1)}
    assert fitting_workers(workers, batch, kept=2) == fits
    shown = capsys.readouterr().err
    assert bool(shown) == (fits < workers)
    if shown:
        assert len(shown.splitlines()) == 1
        assert "--shm-size" in shown and f"--workers {fits} is taken" in shown


def test_ranks_of_one_machine_deal_the_memory(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 16 * MB))
    batch = {"images": torch.empty(MB, dtype=torch.uint8)}
    assert fitting_workers(6, batch, kept=2) == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert fitting_workers(6, batch, kept=2) == 2


def test_where_there_is_no_such_folder_nothing_changes(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path / "none")
    assert fitting_workers(4, {"images": torch.empty(MB)}, kept=2) == 4


def test_the_samples_are_the_same_and_no_random_number_is_drawn(monkeypatch):
    there = digest(2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 64 * 1024))
    before = torch.get_rng_state()
    make_loader(Noise(), 4, 2, shuffle_seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert there[0] == 2 and digest(2) == (0, there[1])


def with_little(size: str, function) -> None:
    """Run this in a fork: call a function where /dev/shm has `size`."""
    torch.set_num_threads(1)
    private, tmpfs = "mount --make-rprivate /", f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if ctypes.CDLL(None).unshare(OF_MOUNTS) or os.system(f"{private} && {tmpfs}"):
        os._exit(NOT_ALLOWED)
    function()


def print_digest() -> None:
    print(digest(2))


def load_regardless() -> None:
    """Load with two processes, whatever fits; print what is said of it."""
    loader.fitting_workers = lambda workers, *_, **__: workers
    try:
        list(batches_of(make_loader(Noise(), 4, 2, shuffle_seed=1)))
    except UserError as error:
        print(error)


def done_with_little(clean_process, size: str, function) -> subprocess.CompletedProcess:
    done = clean_process.call(with_little, size, function)
    if done.returncode == NOT_ALLOWED:
        pytest.skip(f"mounting is not allowed: {done.stderr}")
    return done


@linux
@pytest.mark.parametrize("size", ["64k", "1200k"])
def test_in_a_container_with_little(size, clean_process):
    done = done_with_little(clean_process, size, print_digest)
    assert (done.returncode, done.stdout) == (0, f"{(0, digest(0)[1])}\n"), done.stderr
    assert len(done.stderr.splitlines()) == 1 and "--shm-size" in done.stderr


@linux
@pytest.mark.parametrize("size", ["16k", "64k", "400k"])
def test_memory_that_others_took_meanwhile_is_one_sentence(size, clean_process):
    """At the semaphores, at the first batch, later."""
    done = done_with_little(clean_process, size, load_regardless)
    assert "--shm-size" in done.stdout and len(done.stdout.splitlines()) == 1, done.stderr
