"""The engines: torch's eager mode and compiler, ONNX Runtime, OpenVINO."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[Tensor], "list[Tensor]"]
#: Engines and the packages that they need.
ENGINES = {
    "eager": (),
    "compile": (),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
}


def missing(engine: str) -> list[str]:
    """Packages that an engine needs and that are not installed."""
    return [name for name in ENGINES[engine] if find_spec(name) is None]


def versions() -> dict[str, str]:
    """Versions of torch and of the engines that are installed."""
    found = {"torch": str(torch.__version__)}
    for name in ("onnxruntime", "openvino"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def start(engine: str, network: nn.Module, images: Tensor, threads: int, folder: Path) -> Run:
    """Make an engine ready.

    Args:
        engine: One of :data:`ENGINES`.
        network: Images to a tuple of tensors.
        images: An example (N, 3, H, W); the engine may be built for this size alone.
        threads: Threads the engine may use.
        folder: Where an exported model may lie.

    Returns:
        A function from images to the network's outputs in order.

    Raises:
        ValueError: If the network cannot be exported.
    """
    if engine == "eager":
        return lambda x: list(network(x))
    if engine == "compile":
        # Without the guard on shapes that change: each size is timed alone.
        compiled = torch.compile(network, dynamic=False)
        return lambda x: list(compiled(x))
    file = folder / "network.onnx"
    if not file.is_file():
        export(network, images, file)
    return _onnxruntime(file, threads) if engine == "onnxruntime" else _openvino(file, threads)


def export(network: nn.Module, images: Tensor, file: Path) -> None:
    """Write a network as ONNX for the size of ``images``.

    Raises:
        ValueError: If torch cannot.
    """
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), torch.no_grad():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel("ERROR")
            torch.onnx.export(
                network, (images,), str(file), input_names=["images"], opset_version=18, dynamo=False
            )
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(f"the network cannot be exported: {type(error).__name__}: {text}") from error


def _onnxruntime(file: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its threads would go on spinning while another model runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        outputs = session.run(None, {"images": images.numpy()})
        return [torch.from_numpy(output) for output in outputs]

    return run


def _openvino(file: Path, threads: int) -> Run:
    import openvino

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # bfloat16 where the processor has it would not be the same arithmetic.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)

    def run(images: Tensor) -> list[Tensor]:
        outputs = compiled(images.numpy())
        return [torch.from_numpy(outputs[port]) for port in compiled.outputs]

    return run
