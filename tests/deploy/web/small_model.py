"""A tiny ONNX file that keeps the exported files' contract, with boxes that depend on every pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmdet_mobileformer.runtime.metadata import KEY, ModelInfo

CLASSES = ("cat", "dog")


def info(scale: tuple[int, int] = (96, 64), normalized_inside: bool = True) -> ModelInfo:
    mean, std = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
    return ModelInfo("1.0", "small", CLASSES, True, scale, mean, std, normalized_inside, 0.25)


def write_model(
    file: Path, about: ModelInfo | None = None, batch: int | str = "N", outputs: tuple[str, ...] = ()
) -> Path:
    """Three queries; boxes and scores are linear in the means of the channels."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    about = info() if about is None else about
    generator = np.random.default_rng(0)
    names = outputs or ("boxes", "scores", "labels")
    factor = 1 / 255 if about.normalized_inside else 0.2
    base = np.array([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8], [0.2, 0.5, 0.4, 0.9]])
    constants = {
        "axes": np.array([2, 3], dtype=np.int64),
        "factor": np.float32(factor),
        "box_w": generator.uniform(-0.1, 0.1, (3, 12)).astype(np.float32),
        "box_b": base.reshape(1, 12).astype(np.float32),
        "box_shape": np.array([0, 3, 4], dtype=np.int64),
        "score_w": np.float32([[0.1, 0.1, 0.0], [0.1, 0.0, 0.1], [0.0, 0.1, 0.1]]),
        "score_b": np.float32([[0.7, 0.4, 0.1]]),
        "zero": np.zeros((3, 3), dtype=np.float32),
        "label_b": np.float32([[1, 0, 1]]),
    }
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["raw"], keepdims=0),
        helper.make_node("Mul", ["raw", "factor"], ["means"]),
        helper.make_node("MatMul", ["means", "box_w"], ["box_0"]),
        helper.make_node("Add", ["box_0", "box_b"], ["box_1"]),
        helper.make_node("Reshape", ["box_1", "box_shape"], [names[0]]),
        helper.make_node("MatMul", ["means", "score_w"], ["score_0"]),
        helper.make_node("Add", ["score_0", "score_b"], [names[1]]),
        helper.make_node("MatMul", ["means", "zero"], ["label_0"]),
        helper.make_node("Add", ["label_0", "label_b"], ["label_1"]),
        helper.make_node("Cast", ["label_1"], [names[2]], to=TensorProto.INT64),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, "H", "W"])],
        [
            helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [batch, 3, 4]),
            helper.make_tensor_value_info(names[1], TensorProto.FLOAT, [batch, 3]),
            helper.make_tensor_value_info(names[2], TensorProto.INT64, [batch, 3]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {KEY: about.to_json()})
    onnx.save(model, str(file))
    return file
