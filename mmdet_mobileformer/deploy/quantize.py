"""INT8 by ONNX Runtime's static quantisation, with what loses AP left in float.

Weights of convolutions and linear layers become INT8, one scale per output channel, and so do the
activations that go into them, whose ranges are measured on pictures. Products of two activations
(attention, pooling) and everything without weights stay in float, and so does what
:data:`KEPT_IN_FLOAT` names.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.detector import Detector
from ..runtime.engine import INPUT
from ..runtime.metadata import KEY
from ..runtime.picture import network_input, read_picture
from ..runtime.sources import find_sources
from .evaluate import annotated_pictures, coco_ap, interleaved_times

#: Nodes, by their names in the graph, whose weights stay in float: what predicts classes and boxes. A
#: precaution that costs 0.1 MB, since eight bits are coarse for a box in a large picture.
KEPT_IN_FLOAT = (r"/(fc_cls|fc_reg|reg_ffn)/",)
METHODS = ("minmax", "entropy", "percentile")
#: What may be lost, and what should be gained: used for the sentences at the end.
LARGEST_LOSS = 0.01


@dataclass(frozen=True)
class Measured:
    """One file.

    Attributes:
        size: Bytes.
        milliseconds: Median of the network on one picture.
        ap: COCO AP; None without annotations.
    """

    size: int
    milliseconds: float
    ap: float | None


def quantize(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    annotations: str | Path | None = None,
    data_root: str | Path | None = None,
    count: int = 64,
    method: str = "minmax",
    keep_float: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> tuple[Measured, Measured]:
    """Write an INT8 file and measure it beside the float one.

    Args:
        model: A float file of :func:`mmdet_mobileformer.deploy.export.export`.
        images: Folder of pictures like those it will see; labels are not needed.
        out: The new ``.onnx`` file.
        annotations: COCO annotation file for AP before and after; use other pictures than
            ``images`` for it.
        data_root: Folder of the annotated pictures; None takes ``images``.
        count: How many pictures, spread evenly over the folder, measure the ranges.
        method: How ranges are chosen, of :data:`METHODS`.
        keep_float: Regular expressions of further nodes to keep in float.
        say: Is given the lines to print.

    Returns:
        The float file and the INT8 file.

    Raises:
        FileExistsError: If ``out`` is there already.
        FileNotFoundError: If an input is not.
        ImportError: If a package is missing.
        ValueError: If an input is bad.
    """
    model, out = Path(model), Path(out)
    if out.suffix != ".onnx" or model.suffix != ".onnx":
        raise ValueError(f"quantisation goes from .onnx to .onnx, not from {model} to {out}")
    if out.exists():
        raise FileExistsError(f"{out} exists already: give another --out")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: choose {', '.join(METHODS)}")
    if not model.is_file():
        raise FileNotFoundError(f"model {model} does not exist: give a file of export.py")
    patterns = _compile((*KEPT_IN_FLOAT, *keep_float))
    sources = find_sources([str(images)])
    if not sources.pictures:
        raise ValueError(f"{images} is no folder of pictures")
    files = [file for file, _ in sources.pictures]
    chosen = [files[k * len(files) // count] for k in range(count)] if count < len(files) else files
    judged = None
    if annotations is not None:
        judged = annotated_pictures(data_root or images, annotations)
    detector = Detector(model, "onnxruntime")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".quantize-") as folder:
        made = Path(folder) / out.name
        kept, total = _quantize(detector, model, chosen, made, method, patterns)
        say(f"ranges from {len(chosen)} pictures; {kept} of {total} layers with weights in float")
        small = Detector(made, "onnxruntime")
        times = interleaved_times((detector, small), chosen[0])
        found = []
        for one, file, time in zip((detector, small), (model, made), times):
            ap = None
            if judged is not None and annotations is not None:
                ap = coco_ap(one, judged, annotations)
            found.append(Measured(file.stat().st_size, time, ap))
        before, after = found
        os.replace(made, out)
    for line in report(before, after):
        say(line)
    say(f"written to {out}")
    return before, after


def report(before: Measured, after: Measured) -> list[str]:
    """The lines to print."""
    lines = ["            float      INT8"]
    if before.ap is not None and after.ap is not None:
        lines.append(f"AP        {before.ap:7.4f}   {after.ap:7.4f}   {after.ap - before.ap:+.4f}")
    lines += [
        f"MB        {before.size / 1e6:7.2f}   {after.size / 1e6:7.2f}   "
        f"{after.size / before.size:.2f}x",
        f"ms        {before.milliseconds:7.1f}   {after.milliseconds:7.1f}   "
        f"{after.milliseconds / before.milliseconds:.2f}x",
    ]
    if after.milliseconds >= before.milliseconds:
        lines.append("INT8 is not faster on this CPU: use it for its size, or stay with float")
    if before.ap is not None and after.ap is not None and before.ap - after.ap > LARGEST_LOSS:
        lines.append(
            f"AP falls by more than {LARGEST_LOSS}: use more pictures, another --method, or keep more "
            "layers in float with --float"
        )
    return lines


def _compile(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    try:
        return [re.compile(pattern) for pattern in patterns]
    except re.error as error:
        raise ValueError(f"--float {error.pattern!r} is no regular expression: {error}") from error


def _quantize(
    detector: Detector,
    model: Path,
    pictures: Sequence[Path],
    out: Path,
    method: str,
    patterns: Sequence[re.Pattern[str]],
) -> tuple[int, int]:
    """Write the INT8 file; returns how many layers with weights stay in float, and of how many."""
    try:
        import onnx
        from onnxruntime.quantization import (
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
    except ImportError as error:
        raise ImportError(f"quantisation needs {error.name}: pip install onnx sympy") from error

    graph = onnx.load(str(model)).graph
    weights = {value.name for value in graph.initializer}
    layers = [
        node.name
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and weights & set(node.input[1:2])
    ]
    kept = [name for name in layers if any(pattern.search(name) for pattern in patterns)]
    chosen = [name for name in layers if name not in kept]
    if not chosen:
        raise ValueError("the patterns keep every layer in float: nothing is left to quantise")
    logging.disable(logging.WARNING)  # it advises preprocessing, which the export has done
    try:
        quantize_static(
            str(model),
            str(out),
            _Reader(detector, pictures),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=chosen,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            # Weights of seven bits, in a byte each: CPUs without VNNI (AVX2, say) add two products of 255
            # and 127 in 16 bits, which do not hold them. With 64 they do, so that all CPUs find the same.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, _CALIBRATION[method]),
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
    finally:
        logging.disable(logging.NOTSET)
    made = onnx.load(str(out))
    onnx.helper.set_model_props(made, {KEY: detector.info.to_json()})
    made.producer_name, made.producer_version = "mmdet_mobileformer", detector.info.version
    _shorten_names(made.graph)
    onnx.checker.check_model(made)
    onnx.save(made, str(out))
    return len(kept), len(layers)


_CALIBRATION = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def _shorten_names(graph: Any) -> None:
    """Numbers in place of the names of inner tensors, which would be a tenth of a small file."""
    fixed = {value.name for value in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def rename(name: str) -> str:
        return name if name in fixed else short.setdefault(name, f"t{len(short)}")

    for node in graph.node:
        node.doc_string = ""
        for names in (node.input, node.output):
            renamed = [rename(name) for name in names]
            del names[:]
            names.extend(renamed)
    for value in graph.initializer:
        value.name = rename(value.name)
    del graph.value_info[:]


class _Reader:
    """Hands the calibration one picture at a time, prepared as the runtime does."""

    def __init__(self, detector: Detector, pictures: Sequence[Path]) -> None:
        self._detector, self._pictures = detector, pictures
        self._left = iter(pictures)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, or None at the end."""
        file = next(self._left, None)
        if file is None:
            return None
        return {INPUT: network_input(read_picture(file), self._detector.info)[None]}

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        result = self.get_next()
        if result is None:
            raise StopIteration
        return result
