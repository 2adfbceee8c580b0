"""What is timed: detectors of any config with random weights, all treated alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.detectors import DetectionTransformer, SingleStageDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...backbone import MobileFormer
from ...detector import E2EMF
from ...swap.common import dicts_in, one_line
from ...swap.config_file import read_base

#: Behind a config's name: the backbone alone.
BACKBONE = "#backbone"
#: How models are prepared: ``deploy()`` of this package for what is its own, Conv-BN folding for the
#: rest; Conv-BN folding for all; nothing.
PREPARATIONS = ("deploy", "fold", "none")


def load(name: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config, of this package or ``mmdet::...``, and take its pretrained weights out.

    Args:
        name: Path of a config or ``mmdet::FAMILY/NAME.py``, with or without :data:`BACKBONE`.
        options: Settings to override, as of ``--cfg-options``.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If it cannot be read or has no ``model``.
    """
    cfg = read_base(name.removesuffix(BACKBONE))
    cfg.merge_from_dict(options or {})
    if cfg.get("model") is None:
        raise ValueError(f"config {name} has no `model`: give the config of a detector")
    for _, values in dicts_in(cfg.model):
        # Nothing is downloaded; weights do not change the time.
        if isinstance(values.get("init_cfg"), dict) and values["init_cfg"].get("type") == "Pretrained":
            values["init_cfg"] = None
    return cfg


def build(cfg: Config, name: str) -> nn.Module:
    """The model of a config with its random initial weights, the same on every call.

    Raises:
        ValueError: If it cannot be built.
    """
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    # mmengine would print a line for every initialised parameter.
    MMLogger.get_current_instance().setLevel("WARNING")
    torch.manual_seed(0)
    try:
        model: Any = MODELS.build(cfg.model)
    except Exception as error:
        raise ValueError(f"the model of {name} cannot be built: {one_line(error)}") from error
    if hasattr(model, "init_weights"):
        model.init_weights()
    built: nn.Module = model
    return built


def samples(shape: tuple[int, int], batch: int, boxes: int = 0) -> list[Any]:
    """Data samples of images that fill the batch, each with ``boxes`` random boxes of class 0."""
    generator = torch.Generator().manual_seed(0)
    height, width = shape
    meta = dict(
        img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape,
        scale_factor=(1.0, 1.0),
    )
    result = []
    for _ in range(batch):
        sample = DetDataSample(metainfo=meta)
        if boxes:
            limit = torch.tensor([width, height, width, height], dtype=torch.float32)
            corner = torch.rand(boxes, 2, generator=generator) * 0.6
            size = torch.rand(boxes, 2, generator=generator) * 0.3 + 0.1
            sample.gt_instances = InstanceData(
                bboxes=torch.cat((corner, corner + size), dim=1) * limit,
                labels=torch.zeros(boxes, dtype=torch.int64),
            )
        result.append(sample)
    return result


class Network(nn.Module):
    """A detector from normalised images to the tensors that post-processing reads.

    Everything an engine runs; :meth:`boxes` is the rest, which is torch's for every engine. Of a
    DETR only the last layer's states go through the head, as in its own ``predict``.

    Args:
        model: An mmdet detector, a backbone, or any module that takes images.
        shape: Height and width of the images in pixels.
        batch: Images in a batch.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int], batch: int) -> None:
        super().__init__()
        # An export puts everything below into the mode of what is on top.
        self.training = model.training
        self.model = model
        self.shape = shape
        self.samples = samples(shape, batch)
        self._structure: Any = None

    def learn_structure(self, images: Tensor) -> None:
        """See how the outputs are nested, which :meth:`boxes` needs."""
        with torch.inference_mode():
            self._structure = pytree.tree_structure(self._run()(images))

    @property
    def splits(self) -> bool:
        """Whether network and post-processing can be told apart (not in two-stage detectors)."""
        return self._run() != self._whole

    def _run(self) -> Callable[[Tensor], Any]:
        if isinstance(self.model, DetectionTransformer):
            return self._transformer
        if isinstance(self.model, SingleStageDetector):
            return self._single_stage
        if "mode" in inspect.signature(self.model.forward).parameters:
            return self._whole
        return self.model

    def _transformer(self, images: Tensor) -> Any:
        model: Any = self.model
        inputs = dict(model.forward_transformer(model.extract_feat(images), self.samples))
        if type(model.bbox_head).predict is DETRHead.predict:
            inputs["hidden_states"] = inputs["hidden_states"][-1:]
        return model.bbox_head(**inputs)

    def _single_stage(self, images: Tensor) -> Any:
        model: Any = self.model
        return model.bbox_head(model.extract_feat(images))

    def _whole(self, images: Tensor) -> Any:
        return [s.pred_instances.bboxes for s in self.model(images, self.samples, mode="predict")]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) to the outputs in a row, whatever their nesting was."""
        return tuple(pytree.tree_leaves(self._run()(images)))

    def boxes(self, outputs: Sequence[Tensor]) -> Any:
        """Post-processing: scores, boxes, top-k, and NMS where the detector has it.

        :meth:`learn_structure` must have run; outputs of another engine may be given.
        """
        head = getattr(self.model, "bbox_head", None)
        if head is None or not self.splits:
            return outputs
        nested = pytree.tree_unflatten(list(outputs), self._structure)
        return head.predict_by_feat(
            *nested, batch_img_metas=[s.metainfo for s in self.samples], rescale=False
        )


def part_of(model: nn.Module, name: str) -> nn.Module:
    """The backbone, if the name ends in :data:`BACKBONE`; else the model.

    Raises:
        ValueError: If it has none.
    """
    if not name.endswith(BACKBONE):
        return model
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ValueError(f"{name}: the model has no backbone to time")
    return backbone


def prepare(model: nn.Module, how: str, compiled: bool = True) -> tuple[nn.Module, str]:
    """Make a model ready for inference.

    Args:
        model: Is changed.
        how: One of :data:`PREPARATIONS`.
        compiled: Whether ``deploy()`` may use this package's compiled kernels; no export knows them.

    Returns:
        The model, and what was done.
    """
    from mmcv.cnn.utils.fuse_conv_bn import fuse_conv_bn

    model = model.eval().requires_grad_(False)
    if how == "none":
        return model, "as built"
    if how == "deploy":
        backbone = getattr(model, "backbone", None)
        if isinstance(model, (MobileFormer, E2EMF)) and isinstance(backbone or model, MobileFormer):
            return _deploy(model, compiled), "deploy()"
        if isinstance(backbone, MobileFormer):
            model.backbone = _deploy(backbone, compiled)
            return fuse_conv_bn(model), "deploy(), Conv-BN folded"
    return fuse_conv_bn(model), "Conv-BN folded"


def _deploy(model: nn.Module, compiled: bool) -> nn.Module:
    from ...deploy.fold import deploy

    folded: nn.Module = deploy(model, kernels=None if compiled else False)
    return folded
