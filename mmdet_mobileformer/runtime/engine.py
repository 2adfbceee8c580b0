"""The two programs that run an exported file: ONNX Runtime and OpenVINO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .metadata import KEY

ENGINES = ("onnxruntime", "openvino")
#: Outputs, in the order in which :meth:`Engine.run` returns them.
OUTPUTS = ("boxes", "scores", "labels")
INPUT = "images"


class Engine(ABC):
    """A loaded model.

    Attributes:
        name: Which of :data:`ENGINES` runs it.
        file: The model's file.
        description: The JSON text inside the file; None if there is none.
        size: Height and width in px that the file was exported for; None if any will do.
        batch: The same of the number of images.
    """

    name: str
    file: str
    description: str | None
    size: tuple[int, int] | None
    batch: int | None

    @abstractmethod
    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images float32 (N, 3, H, W) to boxes (N, Q, 4), scores (N, Q), labels (N, Q)."""

    def _shape(self, shape: list[int | None]) -> None:
        self.batch = shape[0]
        height, width = shape[2], shape[3]
        self.size = None if height is None or width is None else (height, width)


def load_engine(file: str | Path, engine: str | None = None, threads: int | None = None) -> Engine:
    """Load a model.

    Args:
        file: ``.onnx``, or the ``.xml`` of OpenVINO's IR.
        engine: One of :data:`ENGINES`; None takes ONNX Runtime for ``.onnx`` where it is installed.
        threads: Cores to use; None leaves it to the engine.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the engine is not installed.
        ValueError: If the engine is unknown, or the file is no such model.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"model {file} does not exist: give an exported .onnx or .xml file")
    if path.suffix not in (".onnx", ".xml"):
        raise ValueError(f"model {file} must end in .onnx or .xml")
    if engine not in (None, *ENGINES):
        raise ValueError(f"engine {engine!r} is unknown: choose {' or '.join(ENGINES)}")
    if path.suffix == ".xml" and engine == "onnxruntime":
        raise ValueError(f"ONNX Runtime does not read {file}: give the .onnx file")
    if engine is None:
        use_openvino = path.suffix == ".xml" or find_spec("onnxruntime") is None
        engine = "openvino" if use_openvino else "onnxruntime"
    if find_spec(engine) is None:
        wanted = engine if path.suffix == ".xml" else "onnxruntime"
        raise ImportError(f"model {file} needs the package {wanted}: pip install {wanted}")
    kind = _OpenVino if engine == "openvino" else _OnnxRuntime
    try:
        return kind(path, threads)
    except ValueError:
        raise
    except Exception as error:  # the engines raise classes of their own, by the kind of damage
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"model {file} cannot be loaded by {engine}: {line[:200]}") from error


def _check_names(file: Path, inputs: list[str], outputs: list[str]) -> None:
    if inputs != [INPUT] or any(name not in outputs for name in OUTPUTS):
        raise ValueError(
            f"model {file} has inputs {inputs} and outputs {outputs} instead of {INPUT} and "
            f"{', '.join(OUTPUTS)}: export it with tools/deployment/export.py"
        )


class _OnnxRuntime(Engine):
    name = "onnxruntime"

    def __init__(self, file: Path, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.file = str(file)
        self._session = onnxruntime.InferenceSession(
            self.file, options, providers=["CPUExecutionProvider"]
        )
        inputs = self._session.get_inputs()
        outputs = [value.name for value in self._session.get_outputs()]
        _check_names(file, [value.name for value in inputs], outputs)
        self._shape([side if isinstance(side, int) else None for side in inputs[0].shape])
        self.description = self._session.get_modelmeta().custom_metadata_map.get(KEY)

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        boxes, scores, labels = self._session.run(list(OUTPUTS), {INPUT: images})
        return boxes, scores, labels


class _OpenVino(Engine):
    name = "openvino"

    def __init__(self, file: Path, threads: int | None) -> None:
        import openvino

        model = openvino.Core().read_model(str(file))
        self.file = str(file)
        names = [sorted(value.get_names()) for value in model.outputs]
        flat = [name for group in names for name in group]
        _check_names(file, sorted(model.inputs[0].get_names())[:1], flat)
        shape = model.inputs[0].get_partial_shape()
        self._shape([None if side.is_dynamic else side.get_length() for side in shape])
        self.description = _openvino_description(model, file)
        # Without this it computes in bfloat16 where the CPU can, and boxes move by pixels.
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        self._model = openvino.compile_model(model, "CPU", config)

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = self._model({INPUT: images})
        boxes, scores, labels = (np.array(found[name]) for name in OUTPUTS)
        return boxes, scores, labels


def _openvino_description(model: Any, file: Path) -> str | None:
    """From the IR; OpenVINO itself drops what stands in an ONNX file, so that is read from the file."""
    if model.has_rt_info([KEY]):
        return str(model.get_rt_info([KEY]).astype(str))
    return onnx_property(file, KEY) if file.suffix == ".onnx" else None


def onnx_property(file: Path, key: str) -> str | None:
    """A text of an ONNX file's ``metadata_props``, read without the package onnx.

    A file is a sequence of protobuf fields; the properties are its field 14, pairs of key (1) and
    value (2).
    """
    for number, content in _fields(file.read_bytes()):
        if number == 14:
            pair = dict(_fields(content))
            if pair.get(1) == key.encode():
                return pair.get(2, b"").decode()
    return None


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message, as (number, content)."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = varint()
        kind = tag & 7
        if kind == 0:
            varint()
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            length = varint()
            found.append((tag >> 3, data[at : at + length]))
            at += length
    return found
