"""kernel_caches.py: memory does not grow with the number of sizes that convolutions saw."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmdet_mobileformer import kernel_caches
from mmdet_mobileformer.kernel_caches import ENTRIES, TRAINING_ENTRIES, bound_kernel_caches

NAMES = (
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
    "DNNL_PRIMITIVE_CACHE_CAPACITY",
    "LRU_CACHE_CAPACITY",
)
MODULE = Path(kernel_caches.__file__)
# Bytes of the heap that 300 further sizes leave in use, after as many as fill a bounded cache. Bounded
# after torch is imported, as where a user imports the package last.
PROBE = """
import ctypes, gc, runpy, sys
import torch

runpy.run_path(sys.argv[1])["bound_kernel_caches"]()

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
        "keepcost")]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info

def run(sizes):
    with torch.no_grad():
        for height, width in sizes:
            layer(torch.zeros(1, 32, height, width))
    gc.collect()
    return mallinfo2().uordblks

torch.set_num_threads(1)
layer = torch.nn.Conv2d(32, 32, 3)
sizes = [(height, width) for height in range(32, 54) for width in range(32, 54)]
before = run(sizes[:180])
print(run(sizes[180:480]) - before)
"""


def left_in_use(**environment: str) -> int:
    env = {n: v for n, v in os.environ.items() if n not in (*NAMES, kernel_caches._OURS)} | environment
    command = [sys.executable, "-c", PROBE, str(MODULE)]
    return int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no glibc from 2.33")
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_memory_does_not_grow_with_the_sizes_of_pictures() -> None:
    assert left_in_use(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024", LRU_CACHE_CAPACITY="1024") > 2**20
    assert left_in_use() < 2**17


DETECTIONS = """
import torch
import mmdet_mobileformer
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

register_all_modules()
torch.set_num_threads(1)
model = MODELS.build(Config.fromfile(mmdet_mobileformer.config_path("e2emf_508m_coco")).model).eval()
for _ in range(2):
    with torch.no_grad():
        model(torch.zeros(1, 3, 160, 224))
    print("detected", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_a_second_detection_of_the_same_size_finds_everything() -> None:
    pytest.importorskip("mmdet")
    env = {n: v for n, v in os.environ.items() if n not in (*NAMES, kernel_caches._OURS)}
    command = [sys.executable, "-c", DETECTIONS]
    done = subprocess.run(
        command, env={**env, "ONEDNN_VERBOSE": "2"}, capture_output=True, text=True, check=True
    )
    first, second, _ = done.stdout.split("detected\n")
    if "cache_miss" not in first:
        pytest.skip("this oneDNN does not tell of its cache")
    assert "cache_hit" in second and "cache_miss" not in second


def test_importing_the_package_bounds_them() -> None:
    assert NAMES[0] in os.environ or NAMES[1] in os.environ
    assert NAMES[2] in os.environ


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in NAMES:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.delenv(kernel_caches._OURS, raising=False)
    monkeypatch.setenv(name, "7")
    bound_kernel_caches()
    found = {each: os.environ[each] for each in NAMES if each in os.environ}
    assert found.pop(name) == "7"
    assert found == {
        each: str(ENTRIES)
        for each in (NAMES[0], NAMES[2])
        if each != name and not (each == NAMES[0] and name == NAMES[1])
    }


def test_a_training_takes_more_than_the_import_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in NAMES:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.delenv(kernel_caches._OURS, raising=False)
    bound_kernel_caches()
    bound_kernel_caches(TRAINING_ENTRIES)
    assert [os.environ[NAMES[0]], os.environ[NAMES[2]]] == [str(TRAINING_ENTRIES)] * 2


def test_a_process_that_is_started_knows_who_set_them() -> None:
    """A training that another program starts, such as the demo, which imported the package."""
    script = (
        "import os; from mmdet_mobileformer.kernel_caches import *; "
        f"bound_kernel_caches(TRAINING_ENTRIES); print([os.environ.get(n) for n in {NAMES}])"
    )
    env = {n: v for n, v in os.environ.items() if n not in (*NAMES, kernel_caches._OURS)}
    found = []
    inherited = {NAMES[0]: "128", NAMES[2]: "128", kernel_caches._OURS: f"{NAMES[2]} {NAMES[0]}"}
    for given in (inherited, {NAMES[2]: "128"}):
        done = subprocess.run(
            [sys.executable, "-c", script], env=env | given, capture_output=True, text=True, check=True
        )
        found.append(done.stdout.strip())
    assert found == ["['512', None, '512']", "['512', None, '128']"]
