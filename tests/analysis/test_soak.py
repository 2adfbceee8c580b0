"""analysis/soak.py: what counts as growth, and a run of seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmdet_mobileformer.analysis.soak import growth, memory_of, plot_memory, watch

pytest.importorskip("psutil")


def line(per_hour: float, noise: float = 5.0) -> list[tuple[float, float]]:
    minutes = np.linspace(0, 60, 600)
    used = 900 + per_hour * minutes / 60 + np.random.default_rng(0).normal(0, noise, 600)
    used[minutes < 10] -= 50 * (10 - minutes[minutes < 10])
    used[::50] += 400  # validations
    return list(zip(minutes.tolist(), used.tolist()))


@pytest.mark.parametrize("per_hour", [0.0, 50.0, -30.0])
def test_growth_is_that_after_the_warm_up_without_peaks(per_hour: float) -> None:
    assert growth(line(per_hour)) == pytest.approx(per_hour, abs=5)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        growth(line(0.0)[:50])
    with pytest.raises(ValueError, match="too few"):
        growth([])


def test_memory_of_a_process_and_of_its_child_is_seen_from_outside() -> None:
    program = (
        "import subprocess, sys, time; data = bytearray(b'x') * (64 << 20)\n"
        "child = subprocess.Popen([sys.executable, '-c', "
        "'import time; data = bytearray(b\"x\") * (64 << 20); print(1, flush=True); time.sleep(60)'],"
        " stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(1, flush=True); time.sleep(2); child.kill()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    samples = watch(process.pid, lambda: process.poll() is None, every=0.1)
    assert max(used for _, used in samples) > 128
    assert memory_of(process.pid) == 0


def test_the_plot(tmp_path: Path) -> None:
    picture = plot_memory({"training": line(0.0), "inference": line(2.0)}, tmp_path / "a/memory.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
