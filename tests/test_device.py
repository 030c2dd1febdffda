import os
import platform
import subprocess
import sys

import pytest
import torch

from src.device import choose_device, precision, warn_of_precision
from src.script import UserError
from tests.conftest import ROOT


def test_cpu_runs_in_float32_and_a_missing_gpu_is_said(monkeypatch):
    assert precision(torch.device("cpu")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="--device"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16)],
)
def test_gpus_run_in_the_half_precision_that_they_have(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision(torch.device("cuda")) == dtype


@pytest.mark.parametrize(
    ("encoder", "capability", "warned"),
    [
        ("vit_base_patch16_dinov3.lvd1689m", (7, 5), True),
        ("vit_base_patch16_dinov3.lvd1689m", (8, 0), False),
        ("convnext_base.dinov3_lvd1689m", (7, 5), False),
        ("vit_base_patch14_dinov2.lvd142m", (7, 5), False),
    ],
)
def test_dinov3_vits_are_warned_of_in_float16(monkeypatch, capsys, encoder, capability, warned):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    warn_of_precision(encoder, torch.device("cuda"))
    assert ("may overflow" in capsys.readouterr().out) == warned


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is the GNU C library's")
@pytest.mark.parametrize("kept", [True, False])
def test_freed_memory_is_kept_for_the_next_batch(kept):
    """Counted by the pages that the system makes anew. A block of 24 MiB has 6,144 of them."""
    program = f"""
import resource, torch
from src.device import choose_device
torch.set_num_threads(1)
choose_device("cpu") if {kept} else None
for turn in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(6 << 20) for _ in range(8)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if not kept:
        # glibc's first threshold, fixed: it would rise, and a small block could pin the others.
        environment["GLIBC_TUNABLES"] = "glibc.malloc.mmap_threshold=131072"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (int(done.stdout) < 1000) == kept, done.stdout
