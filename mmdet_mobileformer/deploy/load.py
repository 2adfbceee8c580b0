"""From a config and a checkpoint to a detector and the description of its input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet.registry import DATASETS, MODELS
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..runtime.metadata import ModelInfo
from ..train.build import read_config
from ..train.guards import check_checkpoint, state_dict_of
from ..train.inference import TRAINED_WITH
from ..version import __version__
from .graph import statistics

#: What the test pipeline may hold beside its one Resize: nothing that changes pixels.
_HARMLESS = ("LoadImageFromFile", "LoadAnnotations", "PackDetInputs")
SCORE_THRESHOLD = 0.3


def load_detector(
    config: str, checkpoint: str, options: dict[str, Any] | None = None
) -> tuple[Config, Any, dict[str, Any]]:
    """Build a detector and give it a checkpoint's weights; every one that inference reads must fit.

    Args:
        config: A config file.
        checkpoint: A file, read without running code; see
            :func:`mmdet_mobileformer.train.safe_loading.trust_checkpoint`.
        options: Overrides of the config.

    Returns:
        The config, the detector in evaluation mode, the checkpoint's ``meta``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If one is damaged or unsafe, or they do not fit each other.
    """
    cfg = read_config(config, options)
    if cfg.get("model") is None:
        raise ValueError(f"config {config} lacks model, needed for exporting")
    # Reads the checkpoint first: a wrong name should not wait for the model.
    found = check_checkpoint(checkpoint)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    detector = MODELS.build(cfg.model).eval()
    state = state_dict_of(found)
    own = detector.state_dict()
    bad = [
        name
        for name, value in own.items()
        if not name.startswith(TRAINED_WITH)
        and not name.endswith("num_batches_tracked")
        and (name not in state or state[name].shape != value.shape)
    ]
    if bad:
        raise ValueError(
            f"checkpoint {checkpoint} does not fit the config's model: {len(bad)} weights are missing "
            f"or of another shape ({', '.join(bad[:3])}{' ...' if len(bad) > 3 else ''})"
        )
    fitting = {
        name: value
        for name, value in state.items()
        if name in own and value.shape == own[name].shape
    }
    detector.load_state_dict(fitting, strict=False)
    detector.requires_grad_(False)
    meta = found.get("meta")
    return cfg, detector, meta if isinstance(meta, dict) else {}


def describe(
    cfg: Config,
    detector: Any,
    meta: dict[str, Any],
    normalized_inside: bool = True,
    size: tuple[int, int] | None = None,
) -> ModelInfo:
    """What the exported file says about itself.

    Args:
        cfg: The config; its test pipeline gives the rule of resizing.
        detector: Its detector.
        meta: The checkpoint's, whose classes come before the config's.
        normalized_inside: Whether the graph applies mean and standard deviation.
        size: Height and width of a file for one size: pictures are then resized to it whatever
            their shape.

    Raises:
        ValueError: If the runtime could not do what the test pipeline does, or the classes do not
            fit the head.
    """
    if size is None:
        keep_ratio, scale = resize_rule(cfg)
    else:
        keep_ratio, scale = False, (size[1], size[0])
    classes = class_names(cfg, meta)
    if len(classes) != detector.bbox_head.num_classes:
        raise ValueError(
            f"the head has {detector.bbox_head.num_classes} classes but {len(classes)} names are "
            f"given ({', '.join(classes[:4])} ...): set metainfo.classes of the config's data set"
        )
    mean, std = statistics(detector)
    return ModelInfo(
        version=__version__,
        config=Path(cfg.filename).stem,
        classes=classes,
        keep_ratio=keep_ratio,
        scale=scale,
        mean=tuple(mean),
        std=tuple(std),
        normalized_inside=normalized_inside,
        score_threshold=SCORE_THRESHOLD,
    )


def resize_rule(cfg: Config) -> tuple[bool, tuple[int, int]]:
    """keep_ratio and scale of the test pipeline's Resize.

    Raises:
        ValueError: If the pipeline has no Resize, or transforms that the runtime does not know.
    """
    pipeline: Sequence[Any] = get_test_pipeline_cfg(cfg) if "test_dataloader" in cfg else ()
    resizes = [step for step in pipeline if step["type"] in ("Resize", "mmdet.Resize")]
    others = [
        str(step["type"])
        for step in pipeline
        if step not in resizes and str(step["type"]).rpartition(".")[2] not in _HARMLESS
    ]
    if others or len(resizes) != 1 or "scale" not in resizes[0]:
        what = f"has {', '.join(others)}" if others else "needs one Resize with a scale"
        raise ValueError(
            f"the test pipeline {what}: an exported file's pictures are resized by one Resize and by "
            "nothing else"
        )
    step = resizes[0]
    if step.get("interpolation", "bilinear") != "bilinear" or step.get("backend", "cv2") != "cv2":
        raise ValueError("the test pipeline's Resize must be bilinear by cv2, as the runtime's is")
    scale = step["scale"]
    width, height = (scale, scale) if isinstance(scale, int) else scale
    return bool(step.get("keep_ratio", False)), (int(width), int(height))


def class_names(cfg: Config, meta: dict[str, Any]) -> tuple[str, ...]:
    """Classes of the checkpoint, or of the config's test data set."""
    known = meta.get("dataset_meta") or {}
    names = known.get("classes") or known.get("CLASSES") or meta.get("CLASSES")
    if not names:
        dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
        while "dataset" in dataset:
            dataset = dataset["dataset"]
        names = (dataset.get("metainfo") or {}).get("classes")
        if not names and "type" in dataset:
            kind = DATASETS.get(dataset["type"])
            names = getattr(kind, "METAINFO", {}).get("classes")
    if not names:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)
