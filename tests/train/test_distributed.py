"""Two gloo processes: gradients, a rank without boxes or gone, dist_train.sh and dist_test.sh."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmdet.models")

import gradient_worker
import threads_worker
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
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


def derived(config: Path, text: str) -> Path:
    """A config beside another one that changes it."""
    file = config.with_name("derived.py")
    file.write_text(f"_base_ = './{config.name}'\n{text}")
    return file


def test_stopped_and_resumed(environment: dict[str, str], tmp_path: Path) -> None:
    """Each process goes on with its own images, randomness and half-accumulated gradients."""
    config, data = make_run(tmp_path)
    config = derived(
        config,
        """
train_cfg = dict(max_epochs=3, val_interval=9)
train_dataloader = dict(batch_size=1, num_workers=1, sampler=dict(shuffle=True))
optim_wrapper = dict(accumulative_counts=2)
default_hooks = dict(checkpoint=dict(by_epoch=False))
custom_hooks = [dict(type='EMAHook')]
""",
    )
    flags = ("--data-root", data, "--work-dir")
    run("dist_train.sh", config, 2, *flags, tmp_path / "a", environment=environment, cwd=tmp_path)
    resume = (tmp_path / "b", "--resume", tmp_path / "a" / "iter_3.pth")
    run("dist_train.sh", config, 2, *flags, *resume, environment=environment, cwd=tmp_path)
    whole, again = (torch.load(tmp_path / d / "iter_6.pth", weights_only=True) for d in "ab")
    record = torch.load(tmp_path / "a" / "iter_3.pth", weights_only=True)["exact_resume"]
    assert len(record["gradients"]) == 2, "of both processes"
    for part in ("state_dict", "ema_state_dict"):
        for name, value in whole[part].items():
            assert torch.equal(again[part][name], value), name
    for index, state in whole["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(again["optimizer"]["state"][index][name], value), name


def test_the_process_with_the_bad_batch_is_heard(
    environment: dict[str, str], tmp_path: Path
) -> None:
    config, data = make_run(tmp_path)
    text = "custom_imports = dict(imports=['spoil_rank'])\ntrain_dataloader = dict(batch_size=1)\n"
    config = derived(config, text + "custom_hooks = [dict(type='SpoilSecondRank')]\n")
    path = os.pathsep.join([str(Path(__file__).parent), environment["PYTHONPATH"]])
    command = [
        "bash",
        str(ROOT / "tools/dist_train.sh"),
        str(config),
        "2",
        "--data-root",
        str(data),
    ]
    done = subprocess.run(
        [*command, "--work-dir", str(tmp_path / "work")],
        env={**environment, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "training stopped at iteration 2" in line]
    assert len(said) == 1, done.stderr[-4000:]
    assert "loss_cls is" in said[0] and "/train/4.png" in said[0] and "3.png" not in said[0]
    assert [file.name for file in (tmp_path / "work").glob("nonfinite*")] == [
        "nonfinite_iter_2_rank_1.pth"
    ]


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("torchrun", [True, False], ids=["torchrun", "alone"])
def test_a_dead_process_ends_the_others(
    torchrun: bool, victim: int, environment: dict[str, str], tmp_path: Path
) -> None:
    """Within a minute and with a sentence; also where nothing watches over the processes."""
    config, data = make_run(tmp_path)
    config = derived(config, "train_cfg = dict(max_epochs=100000, val_interval=100000)\n")
    log = tmp_path / "log.txt"
    tool = [sys.executable, str(ROOT / "tools/train.py"), str(config), "--launcher", "pytorch"]
    flags = ["--data-root", str(data), "--work-dir", str(tmp_path / "work")]
    every = "default_hooks.checkpoint.interval=100000"
    port = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=environment["PORT"], WORLD_SIZE="2")
    with log.open("w") as output:
        if torchrun:
            script = ["bash", str(ROOT / "tools/dist_train.sh"), str(config), "2"]
            commands = [(script, {})]
        else:
            ranks = [dict(port, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
            commands = [(tool, rank) for rank in ranks]
        started = [
            subprocess.Popen(
                [*command, *flags, "--cfg-options", every],
                env={**environment, **extra},
                cwd=tmp_path,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            for command, extra in commands
        ]
        try:
            end = time.monotonic() + 240
            while "Epoch(train)" not in log.read_text():
                assert time.monotonic() < end and all(p.poll() is None for p in started)
                time.sleep(0.2)
            pid = rank_of(started[0].pid, victim) if torchrun else started[victim].pid
            os.kill(pid, signal.SIGKILL)
            start = time.monotonic()
            codes = [process.wait(60) for process in started]
            assert time.monotonic() - start < 60
        finally:
            for process in started:
                process.kill()
    assert all(codes)
    text = log.read_text()
    if torchrun:
        assert "Signal 9 (SIGKILL)" in text
    else:
        sentence = (
            f"train.py: process {1 - victim} of 2 stops, since another one of this run is gone"
        )
        assert text.count(sentence) == 1 and "Traceback" not in text


def rank_of(parent: int, rank: int) -> int:
    """The child process of torchrun with a rank."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError("no such process")


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


@pytest.mark.parametrize("tool", ["train.py", "test.py"])
def test_no_thread_of_the_processes_group_is_left(
    tool: str, two_processes: Callable[..., None], tmp_path: Path
) -> None:
    """One that outlives Python may abort a process whose work is done."""
    config, data = make_run(tmp_path)
    file = [config]
    if tool == "test.py":
        init_default_scope("mmdet")
        model = MODELS.build(Config.fromfile(str(config)).model)
        torch.save(dict(state_dict=model.state_dict()), tmp_path / "weights.pth")
        file += [tmp_path / "weights.pth"]
    flags = ("--data-root", data, "--work-dir", tmp_path / "work", "--launcher", "pytorch")
    worker = Path(threads_worker.__file__)
    two_processes(worker, tmp_path, ROOT / "tools" / tool, *file, *flags)
    for rank in (0, 1):
        used, left = (tmp_path / f"rank{rank}.txt").read_text().split()
        assert int(used) > 0 and int(left) == 0


def test_the_ap_of_two_processes_is_that_of_one(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Unrounded, with a number of images that does not divide, so that one comes twice."""
    config, data = make_run(tmp_path)
    annotations = data / "annotations" / "instances_val.json"
    images = val_images(data, 7)
    init_default_scope("mmdet")
    model = MODELS.build(Config.fromfile(str(config)).model)
    checkpoint = tmp_path / "weights.pth"
    torch.save(dict(state_dict=model.state_dict()), checkpoint)

    def detections(name: str, *command: object) -> list[dict[str, Any]]:
        prefix = f"test_evaluator.0.outfile_prefix={tmp_path / name}"
        flags = ("--data-root", data, "--work-dir", tmp_path / "work", "--cfg-options", prefix)
        done = subprocess.run(
            [*map(str, command), *map(str, flags)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        found: list[dict[str, Any]] = json.loads((tmp_path / f"{name}.bbox.json").read_text())
        return sorted(found, key=lambda d: (d["image_id"], -d["score"], d["bbox"]))

    single = (sys.executable, ROOT / "tools/test.py", config, checkpoint)
    write_coco(annotations, images, [])
    first = detections("first", *single)
    # An untrained detector finds nothing; so what it says, moved a little, is made the truth.
    generator = np.random.default_rng(0)
    truth = [
        dict(detection, bbox=list(np.asarray(detection["bbox"]) + generator.normal(0, 2, 4)))
        for image in images
        for detection in [d for d in first if d["image_id"] == image["id"]][::3]
    ]
    write_coco(annotations, images, truth)
    one = detections("one", *single)
    script = ("bash", ROOT / "tools/dist_test.sh", config, checkpoint, 2)
    two = detections("two", *script)
    assert one == first and two == one and len(one) == 70
    stats = [coco_stats(annotations, found) for found in (one, two)]
    assert np.array_equal(*stats) and 0.05 < stats[0][0] < 0.95


def val_images(data: Path, count: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    images = []
    for index in range(1, count + 1):
        picture = generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(data / "val" / f"{index}.png"), picture)
        images.append(dict(id=index, file_name=f"{index}.png", width=64, height=64))
    return images


def write_coco(file: Path, images: list[dict[str, Any]], truth: list[dict[str, Any]]) -> None:
    annotations = []
    for number, item in enumerate(truth, start=1):
        x, y, width, height = (float(value) for value in item["bbox"])
        width, height = max(width, 2.0), max(height, 2.0)
        box = dict(id=number, image_id=item["image_id"], category_id=item["category_id"])
        annotations.append(dict(box, bbox=[x, y, width, height], area=width * height, iscrowd=0))
    categories = [dict(id=1, name="box"), dict(id=2, name="disc")]
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def coco_stats(annotations: Path, detections: list[dict[str, Any]]) -> np.ndarray:
    """The twelve numbers of COCO, as they are."""
    truth = COCO(str(annotations))
    evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.asarray(evaluation.stats)


def compare(validated: Path, tested: Path) -> None:
    """Both pickles hold the same boxes, scores and labels, image by image."""
    found: list[Any] = [pickle.loads(file.read_bytes()) for file in (validated, tested)]
    assert [sample["img_id"] for sample in found[0]] == [1, 2, 3]
    for ours, theirs in zip(*found):
        assert ours["img_id"] == theirs["img_id"]
        for key in ("bboxes", "scores", "labels"):
            a, b = ours["pred_instances"][key], theirs["pred_instances"][key]
            assert len(a) == 10 and torch.allclose(a.double(), b.double(), rtol=0, atol=1e-5), key
