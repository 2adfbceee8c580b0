"""Two gloo processes: gradients, a rank without boxes, and dist_train.sh / dist_test.sh."""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet.models")

import gradient_worker
from tiny_run import make_run

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).resolve().parents[2]
#: Boxes per image; the first half goes to rank 0. The last case leaves rank 1 without any box.
COUNTS = ([3, 1, 2, 5], [2, 4, 0, 0])


def test_gradients_equal_those_of_the_doubled_batch(
    two_processes: Callable[..., None], tmp_path: Path
) -> None:
    arguments = [",".join(map(str, counts)) for counts in COUNTS]
    two_processes(Path(gradient_worker.__file__), tmp_path, *arguments)
    ranks = [torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1)]
    for case, counts in enumerate(COUNTS):
        model, _ = gradient_worker.build()
        expected = gradient_worker.gradients(model, model, *gradient_worker.batch(counts))
        scale = max(float(grad.abs().max()) for grad in expected["grads"].values())
        for rank in ranks:
            found = rank[case]["grads"]
            assert set(found) == set(expected["grads"])
            for name, grad in expected["grads"].items():
                assert found[name] is not None, name
                error = float((found[name] - grad).abs().max())
                # Relative to the parameter's own largest gradient; zero ones to the model's.
                assert error <= 1e-6 * max(float(grad.abs().max()), 1e-9 * scale), name
        mean = (ranks[0][case]["loss"] + ranks[1][case]["loss"]) / 2
        assert torch.isclose(mean, expected["loss"], rtol=1e-6)


def run(script: str, *args: object, environment: dict[str, str], cwd: Path) -> str:
    command = ["bash", str(ROOT / "tools" / script), *map(str, args)]
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def test_an_epoch_and_its_test(environment: dict[str, str], tmp_path: Path) -> None:
    config, data = make_run(tmp_path)
    flags = ("--data-root", data, "--work-dir", tmp_path / "work")
    log = run("dist_train.sh", config, 2, *flags, environment=environment, cwd=tmp_path)
    assert log.count("Training from scratch") == 1, "one process speaks"
    checkpoint = tmp_path / "work/epoch_1.pth"
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in weights.values())
    flags = (*flags, "--out", tmp_path / "test.pkl")
    run("dist_test.sh", config, checkpoint, 2, *flags, environment=environment, cwd=tmp_path)
    compare(tmp_path / "val.pkl", tmp_path / "test.pkl")


def compare(validated: Path, tested: Path) -> None:
    """Both pickles hold the same boxes, scores and labels, image by image."""
    found: list[Any] = [pickle.loads(file.read_bytes()) for file in (validated, tested)]
    assert [sample["img_id"] for sample in found[0]] == [1, 2, 3]
    for ours, theirs in zip(*found):
        assert ours["img_id"] == theirs["img_id"]
        for key in ("bboxes", "scores", "labels"):
            a, b = ours["pred_instances"][key], theirs["pred_instances"][key]
            assert len(a) == 10 and torch.allclose(a.double(), b.double(), rtol=0, atol=1e-5), key
