"""A model file without a network: its boxes are known, its scores follow the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmdet_mobileformer.runtime.metadata import KEY, ModelInfo

CLASSES = ("cat", "dog", "bird")
#: Shares of the picture; labels are 0, 1, 2.
BOXES = np.float32([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 1.0]])
#: Times the mean of the picture's red channel over 255: the scores.
FACTORS = np.float32([0.9, 0.6, 0.2])


def info(**changes: object) -> ModelInfo:
    known: dict[str, object] = dict(
        version="1.0",
        config="tiny",
        classes=CLASSES,
        keep_ratio=True,
        scale=(96, 64),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    )
    return ModelInfo(**{**known, **changes})  # type: ignore[arg-type]


def make_model(
    file: Path,
    description: str | None = None,
    shape: tuple[int | str, ...] = ("batch", 3, "height", "width"),
    outputs: tuple[str, ...] = ("boxes", "scores", "labels"),
) -> Path:
    """Write the model; ``description`` replaces that of :func:`info`, '' leaves it out."""
    tensors = {
        "known": BOXES[None],
        "factors": FACTORS[None] / np.float32(255),
        "numbers": np.int64([[0, 1, 2]]),
        "channel": np.int64(0),
        "one": np.int64([1]),
        "zero": np.int64([0]),
        "two": np.int64([2]),
        "three": np.int64([3]),
        "four": np.int64([4]),
    }
    nodes = [
        helper.make_node("Gather", ["images", "channel"], ["red"], axis=1),
        helper.make_node("ReduceMean", ["red"], ["level"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["level", "one"], ["column"]),
        helper.make_node("Mul", ["column", "factors"], [outputs[1]]),
        helper.make_node("Shape", ["images"], ["sizes"]),
        helper.make_node("Slice", ["sizes", "zero", "one"], ["count"]),
        helper.make_node("Concat", ["count", "three", "four"], ["box_shape"], axis=0),
        helper.make_node("Expand", ["known", "box_shape"], [outputs[0]]),
        helper.make_node("Concat", ["count", "three"], ["label_shape"], axis=0),
        helper.make_node("Expand", ["numbers", "label_shape"], [outputs[2]]),
    ]
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64)
    shapes = ((shape[0], 3, 4), (shape[0], 3), (shape[0], 3))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, k, s) for n, k, s in zip(outputs, kinds, shapes)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    text = info().to_json() if description is None else description
    if text:
        helper.set_model_props(model, {KEY: text})
    onnx.save(model, str(file))
    return file
