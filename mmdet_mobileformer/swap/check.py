"""Seeing that a detector works: one loss with backward, one prediction, and what it costs."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from ..analysis.flops import Count, count
from ..backbone import MobileFormer
from .common import dicts_in, one_line
from .config_file import find_base
from .dummy import dummy_batch

#: Sides of the images that are tried in turn, in pixels: one and three cells at stride 128. A
#: deformable convolution on a CPU takes no less than three.
SIDES = (128, 384)
#: Upper limits during the check: RoI heads would take minutes on a thousand proposals.
_LIMITS = {"nms_pre": 100, "max_per_img": 30}
_ROIS = 16
#: What mmcv says about an operator that a device lacks.
_MISSING = re.compile(r"(\w+?)(_impl)?: implementation for device (cpu|meta) not found")


class CheckError(ValueError):
    """A detector that does not work; the message is one sentence with the step and the reason."""


class NotOnCpuError(CheckError):
    """A detector that needs an operator or a package that is not here: it cannot be checked."""


@dataclass(frozen=True)
class Check:
    """What the check saw.

    Attributes:
        size: Side of the images, in pixels.
        loss: Sum of the losses.
        parameters: Trainable tensors of the backbone.
        without_gradient: Names of those that got no gradient.
        predictions: Boxes, masks or segments predicted in an image.
    """

    size: int
    loss: float
    parameters: int
    without_gradient: tuple[str, ...]
    predictions: int

    def __str__(self) -> str:
        reached = self.parameters - len(self.without_gradient)
        return (
            f"{self.size}x{self.size} px: loss {self.loss:.3f}, gradients in {reached} of "
            f"{self.parameters} tensors of the backbone, {self.predictions} objects predicted"
        )


def check_config(cfg: Config, any_backbone: bool = False) -> Check:
    """Build the detector of a config, train on two small images and predict one.

    Random weights, no checkpoint but one that the backbone's ``init_cfg`` names; no GPU, no data
    set. Batch augmentation is left out, proposals and predictions are limited in number, and boxes
    of any score count. The optimizer is built too. The random state is left as it was.

    Args:
        cfg: The whole config.
        any_backbone: Whether another backbone than MobileFormer will do.

    Raises:
        NotOnCpuError: If an operator has no CPU version, or a package is missing.
        CheckError: If anything fails or is not finite, at each of :data:`SIDES`.
    """
    sizes = _sizes(cfg)
    for size in sizes[:-1]:
        try:
            return _check_at(cfg, size, any_backbone)
        except NotOnCpuError:
            raise
        except CheckError:
            pass  # some heads need more cells than the smallest images have
    return _check_at(cfg, sizes[-1], any_backbone)


def _check_at(cfg: Config, size: int, any_backbone: bool) -> Check:
    with _quiet(), _as_in_a_run(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with _step("the model cannot be built"):
            model = build(small(cfg), init=True)
        with _step("the optimizer cannot be built"):
            _build_optimizer(cfg, model)
        with _step("the loss fails"):
            model.train()
            data = model.data_preprocessor(dummy_batch(cfg, size), True)  # type: ignore[operator]
            total, logged = model.parse_losses(model(**data, mode="loss"))  # type: ignore[operator]
            for name, value in logged.items():
                if not torch.isfinite(torch.as_tensor(value)).all():
                    raise CheckError(f"{name} is {float(value)}")
        with _step("the backward pass fails"):
            total.backward()
            parameters, without = _gradients(model, nn.Module if any_backbone else MobileFormer)
        with _step("the prediction fails"):
            model.eval()
            data = model.data_preprocessor(_one_image(cfg, size), False)  # type: ignore[operator]
            with torch.no_grad():
                (result,) = model(**data, mode="predict")
            predictions = _count_objects(result)
            if not predictions and _every_score_counts(small(cfg)):
                raise CheckError("nothing is predicted, although every score counts")
    return Check(size, float(total), parameters, without, predictions)


@dataclass(frozen=True)
class Verdict:
    """What became of a check.

    Attributes:
        status: ``'works'``; ``'fails'``; ``'fails before too'`` (with the old backbone, in the same
            way); ``'not here'`` (an operator or a package is missing).
        check: What was seen, if it works.
        reason: One sentence, if it does not.
    """

    status: str
    check: Check | None = None
    reason: str = ""


def compare(base: Config, cfg: Config) -> Verdict:
    """Check a swapped config; where that fails, the base as well, to tell whose fault it is."""
    try:
        return Verdict("works", check_config(cfg))
    except NotOnCpuError as error:
        return Verdict("not here", reason=str(error))
    except CheckError as error:
        reason = str(error)
    try:
        check_config(base, any_backbone=True)
    except CheckError as error:
        if str(error) == reason:
            return Verdict("fails before too", reason=reason)
    return Verdict("fails", reason=reason)


def count_config(cfg: Config, shape: tuple[int, int]) -> Count:
    """Parameters and multiply-adds of the detector of a config, at ``shape`` = (H, W) in pixels.

    What runs is mmdet's ``mode='tensor'``, and prediction where a detector does not have that. A
    detector that only takes multiples of 32 gets the next ones; the result's ``shape`` says which.
    RoI heads run on the proposals that random weights give, so their share is a rough one.

    Raises:
        CheckError: If the model does not run.
    """
    padded = (-(-shape[0] // 32) * 32, -(-shape[1] // 32) * 32)
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with _step("the model cannot be built"):
            model = build(without_checkpoints(cfg), init=False)
        predicting = _Predicting(model, cfg)
        # On meta it takes no time, but no proposals come out.
        ways = [
            (run, size, device)
            for device in ("meta", "cpu")
            for size in dict.fromkeys((shape, padded))
            for run in (model, predicting)
        ]
        error: Exception | None = None
        hopeless = set()
        for run, size, device in ways:
            if device not in hopeless:
                try:
                    return count(run, size, device=device)
                except ValueError as failure:
                    error = failure
                    if _MISSING.search(str(failure)):
                        hopeless.add(device)
    raise CheckError(f"counting fails: {error}")


class _Predicting(nn.Module):
    """A detector as a function of images, with all that a prediction may ask for."""

    def __init__(self, model: nn.Module, cfg: Config) -> None:
        super().__init__()
        self.model = model
        self.cfg = cfg

    def forward(self, images: Tensor) -> Any:
        samples = _one_image(self.cfg, min(images.shape[-2:]))["data_samples"]
        shape = tuple(images.shape[-2:])
        for sample in samples:
            sample.set_metainfo(
                dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape)
            )
        return self.model(images, samples, mode="predict")


def build(model_config: dict[str, Any], init: bool) -> nn.Module:
    """A model on the CPU; ``init`` runs its own initialisation."""
    register_all_modules(init_default_scope=True)
    model: nn.Module = revert_sync_batchnorm(MODELS.build(ConfigDict(model_config)))
    if init:
        model.init_weights()  # type: ignore[operator]
    return model


def _sizes(cfg: Mapping[str, Any]) -> tuple[int, ...]:
    """Sides of the images to try: SSD's anchors belong to one size, all others take any."""
    for _, part in dicts_in(cfg["model"]):
        if isinstance(part.get("input_size"), int):
            return (part["input_size"],)
    return SIDES


def without_checkpoints(cfg: Config) -> dict[str, Any]:
    """The model's config without files and process groups that are not here.

    Mobile-Former's own checkpoint stays.
    """
    model: dict[str, Any] = copy.deepcopy(cfg.to_dict()["model"])
    for _, part in dicts_in(model):
        if part.get("type") == "MobileFormer":
            continue
        if "Pretrained" in str(part.get("init_cfg")):
            part["init_cfg"] = None
        if isinstance(part.get("pretrained"), (str, bool)):
            part["pretrained"] = None
        if "teacher_ckpt" in part:
            part["teacher_ckpt"] = None
        if part.get("type") == "MMSyncBN":  # it asks for a process group when it is built
            part.update(type="BN")
            part.pop("stats_mode", None)
        teacher = part.get("teacher_config")
        if isinstance(teacher, str) and not Path(teacher).is_file():
            # mmdet's own configs name it relative to mmdet's repository.
            part["teacher_config"] = str(find_base(f"mmdet::{teacher.removeprefix('configs/')}"))
    return model


def small(cfg: Config) -> dict[str, Any]:
    """The model's config with limits for the check, see :func:`check_config`."""
    model = without_checkpoints(cfg)
    # Sparse R-CNN and QueryInst must predict as many objects as they have learned proposals.
    learned = any("num_proposals" in part for _, part in dicts_in(model))
    for _, part in dicts_in(model):
        part.pop("batch_augments", None)
        for key, limit in ({} if learned else _LIMITS).items():
            if isinstance(part.get(key), int):
                part[key] = min(part[key], limit)
        if "pos_fraction" in part and isinstance(part.get("num"), int):
            part["num"] = min(part["num"], _ROIS)
        # Where there is no NMS (SOLO), the threshold alone keeps the number of masks small.
        if "score_thr" in part and ("nms" in part or "iou_thr" in part):
            part["score_thr"] = 0.0
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without mmengine's line per parameter about initialisation and learning rate."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _as_in_a_run() -> Iterator[None]:
    """What a Runner tells its model: BoxInst reads the number of the iteration."""
    known = MessageHub.get_current_instance().runtime_info
    new = {k: v for k, v in dict(iter=0, epoch=0, max_iters=1, max_epochs=1).items() if k not in known}
    known.update(new)
    try:
        yield
    finally:
        for key in new:
            known.pop(key, None)


@contextmanager
def _step(what: str) -> Iterator[None]:
    try:
        yield
    except CheckError as error:
        raise CheckError(f"{what}: {error}") from None
    except Exception as error:  # whatever a detector raises
        text = one_line(error)
        operator = _MISSING.search(str(error))
        if operator:
            raise NotOnCpuError(
                f"{what} on a CPU, since mmcv has no CPU version of {operator[1]}"
            ) from error
        if isinstance(error, ImportError) or "is not installed" in text:
            raise NotOnCpuError(f"{what}, since a package is missing: {text}") from error
        raise CheckError(f"{what}: {text}") from error


def _build_optimizer(cfg: Config, model: nn.Module) -> None:
    wrapper = copy.deepcopy(cfg.get("optim_wrapper"))
    if wrapper is None:
        return
    if wrapper.get("type") == "AmpOptimWrapper":  # asserts a GPU
        wrapper["type"] = "OptimWrapper"
        wrapper.pop("loss_scale", None)
        wrapper.pop("dtype", None)
    build_optim_wrapper(model, wrapper)


def _gradients(model: nn.Module, kind: type[nn.Module]) -> tuple[int, tuple[str, ...]]:
    """Trainable tensors of the backbone that trains, and the names of those without gradient."""
    for module_name, backbone in model.named_modules():
        named = [(n, p) for n, p in backbone.named_parameters() if p.requires_grad]
        if not (module_name.endswith("backbone") and isinstance(backbone, kind) and named):
            continue
        without = [name for name, p in named if p.grad is None or not p.grad.any()]
        for name, parameter in named:
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise CheckError(f"the gradient of {name} is not finite")
        if len(without) == len(named):
            raise CheckError("no parameter of the backbone gets a gradient")
        return len(named), tuple(without)
    raise CheckError(f"the model has no backbone of {kind.__name__} that trains")


def _one_image(cfg: Config, size: int) -> dict[str, Any]:
    """A batch of one image for prediction, of one branch where training is semi-supervised."""
    batch = dummy_batch(cfg, size)
    if isinstance(batch["inputs"], dict):
        batch = {key: value["sup"] for key, value in batch.items()}
    return {key: value[:1] for key, value in batch.items()}


def _every_score_counts(model_config: dict[str, Any]) -> bool:
    thresholds = [part["score_thr"] for _, part in dicts_in(model_config) if "score_thr" in part]
    return bool(thresholds) and not any(thresholds)


def _count_objects(result: Any) -> int:
    """Objects in one prediction, all finite."""
    if "pred_instances" in result:
        instances = result.pred_instances
        for key in ("bboxes", "scores"):
            if key in instances and not torch.isfinite(torch.as_tensor(instances[key])).all():
                raise CheckError(f"predicted {key} are not finite")
        return len(instances)
    if "pred_panoptic_seg" in result:
        return len(torch.unique(torch.as_tensor(result.pred_panoptic_seg.sem_seg)))
    raise CheckError("the result holds neither instances nor a panoptic segmentation")
