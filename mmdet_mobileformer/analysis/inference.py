"""A detector with its weights, checked, as mmdet's DetInferencer; and what files it is shown."""

from __future__ import annotations

import contextlib
import io
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.apis import DetInferencer
from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.utils import ProgressBar

from ..data.pictures import inspect_picture
from ..pairing import check_pairing
from ..train.build import read_config
from ..train.guards import check_checkpoint, check_fit
from ..train.safe_loading import trust_checkpoint

VIDEO_EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def make_inferencer(
    config: str,
    checkpoint: str,
    device: str = "cpu",
    options: dict[str, Any] | None = None,
    trust: bool = False,
) -> DetInferencer:
    """Build the config's model and load the checkpoint, which must have every weight.

    Args:
        config: A config file.
        checkpoint: Its weights.
        device: Such as ``'cpu'`` or ``'cuda:0'``.
        options: As ``--cfg-options``.
        trust: Load the file even if it can run code.

    Returns:
        mmdet's DetInferencer. Class names are the checkpoint's, else those of the config's data.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the config, the device or the weights do not work.
    """
    cfg = read_config(config, options)
    missing = [key for key in ("model", "test_dataloader") if cfg.get(key) is None]
    if missing:
        raise ValueError(f"config {config} lacks {', '.join(missing)}, which inference needs")
    check_pairing(cfg)
    check_device(device)
    if trust:
        trust_checkpoint(checkpoint)
    content = check_checkpoint(checkpoint)
    if cfg.get("visualizer") is None:
        cfg.visualizer = dict(type="DetLocalVisualizer")
    # What it says about classes and palettes is settled below.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        inferencer = DetInferencer(cfg, checkpoint, device=device, show_progress=False)
    check_fit(inferencer, checkpoint)
    meta = content.get("meta")
    stated = isinstance(meta, dict) and ("dataset_meta" in meta or "CLASSES" in meta)
    if not stated:
        # Without names in the checkpoint DetInferencer takes COCO's, whatever the config says.
        inferencer.model.dataset_meta["classes"] = _classes_of(cfg)
        inferencer.visualizer.dataset_meta = inferencer.model.dataset_meta
    count = getattr(getattr(inferencer.model, "bbox_head", None), "num_classes", None)
    names = inferencer.model.dataset_meta["classes"]
    if count is not None and count != len(names):
        raise ValueError(
            f"the model has {count} classes but there are {len(names)} names: set the classes of "
            f"test_dataloader.dataset.metainfo in {config}"
        )
    return inferencer


def _classes_of(cfg: Config) -> tuple[str, ...]:
    return tuple(DATASETS.build(dict(_innermost(cfg.test_dataloader.dataset), lazy_init=True)).metainfo["classes"])


def _innermost(dataset: Any) -> Any:
    while "dataset" in dataset or "datasets" in dataset:
        dataset = dataset["dataset"] if "dataset" in dataset else dataset["datasets"][0]
    return dataset


def check_device(device: str) -> None:
    """Raise ValueError for a device that this machine, or this torch, does not have."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).strip().splitlines()[0]
        raise ValueError(f"--device {device} does not work here ({said}): try --device cpu") from error


def collect(inputs: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Pictures and videos among files and folders (their files, not their subfolders').

    Raises:
        FileNotFoundError: If something does not exist.
        ValueError: If nothing is found, a file is of no known kind, a picture is damaged, or two
            results would have the same name.
    """
    pictures: list[Path] = []
    videos: list[Path] = []
    for name in inputs:
        path = Path(name)
        if not path.exists():
            raise FileNotFoundError(f"{name} does not exist: give pictures, videos or folders")
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if _kind(file) is not None)
            if not files:
                raise ValueError(f"folder {name} holds neither a picture nor a video")
        elif _kind(path) is None:
            raise ValueError(
                f"{name} is neither a picture ({' '.join(IMG_EXTENSIONS)}) nor a video "
                f"({' '.join(VIDEO_EXTENSIONS)})"
            )
        else:
            files = [path]
        pictures += [file for file in files if _kind(file) == "picture"]
        videos += [file for file in files if _kind(file) == "video"]
    for picture in pictures:
        if (problem := inspect_picture(picture).problem) is not None:
            raise ValueError(f"picture {picture} {problem}: take it out")
    for group in (pictures, videos):
        seen: dict[str, Path] = {}
        for file in group:
            other = seen.setdefault(file.stem, file)
            if other != file:
                raise ValueError(
                    f"{other} and {file} would have results of the same name: run them apart"
                )
    return list(dict.fromkeys(pictures)), list(dict.fromkeys(videos))


def _kind(file: Path) -> str | None:
    suffix = file.suffix.lower()
    if not file.is_file():
        return None
    return "picture" if suffix in IMG_EXTENSIONS else "video" if suffix in VIDEO_EXTENSIONS else None


def detect_pictures(
    inferencer: DetInferencer, pictures: Sequence[Path], out: Path, threshold: float
) -> int:
    """Write ``out/vis/NAME`` with the boxes drawn and ``out/preds/NAME.json`` for each picture.

    The JSON, as DetInferencer writes it, has all predictions: labels, scores, and boxes in pixels.

    Returns:
        How many boxes were drawn.
    """
    _no_border_warnings()
    drawn = 0
    bar = ProgressBar(len(pictures))
    for picture in pictures:
        result = inferencer(
            str(picture), pred_score_thr=threshold, out_dir=str(out), no_save_pred=False
        )
        drawn += sum(score >= threshold for score in result["predictions"][0]["scores"])
        bar.update()
    print()
    return drawn


def detect_video(inferencer: DetInferencer, video: Path, out: Path, threshold: float) -> int:
    """Write ``out/NAME.mp4`` with the boxes drawn and ``out/NAME.json``, frame by frame.

    The JSON has ``fps``, ``classes`` and ``frames``: labels, scores and boxes (pixels) of each
    frame, those below the threshold left out.

    Returns:
        The number of frames.

    Raises:
        ValueError: If the video cannot be read, or no MP4 can be written here.
    """
    _no_border_warnings()
    reader = cv2.VideoCapture(str(video))
    fps = reader.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps < 1000 else 25.0
    frames = _frames(reader)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"video {video} cannot be read: it is damaged or OpenCV lacks its codec")
    height, width = first.shape[:2]
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{video.stem}.mp4"
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
    if not writer.isOpened():
        raise ValueError(f"{target} cannot be written: this OpenCV has no MP4 encoder")
    known = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
    bar = ProgressBar(known if known > 0 else 0)
    records = []
    started = time.perf_counter()
    frame: np.ndarray | None = first
    while frame is not None:
        (sample,) = inferencer(frame, return_datasamples=True)["predictions"]
        found = sample.pred_instances
        found = found[found.scores >= threshold].numpy()
        records.append(
            dict(
                labels=found.labels.tolist(),
                scores=found.scores.tolist(),
                bboxes=found.bboxes.tolist(),
            )
        )
        inferencer.visualizer.add_datasample(
            "frame", frame[..., ::-1], sample, draw_gt=False, pred_score_thr=threshold
        )
        writer.write(np.ascontiguousarray(inferencer.visualizer.get_image()[..., ::-1]))
        bar.update()
        frame = next(frames, None)
    writer.release()
    reader.release()
    seconds = time.perf_counter() - started
    print(f"\n{target}: {len(records)} frames, {len(records) / seconds:.1f} per second")
    classes = list(inferencer.model.dataset_meta["classes"])
    content = dict(fps=fps, classes=classes, frames=records)
    (out / f"{video.stem}.json").write_text(json.dumps(content))
    return len(records)


def _no_border_warnings() -> None:
    # mmengine warns of every box that touches the picture's border, and draws it rightly.
    warnings.filterwarnings("ignore", message=".*out of bounds, the drawn")


def _frames(reader: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        good, frame = reader.read()
        if not good:
            return
        yield frame
