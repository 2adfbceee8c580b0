"""Run an exported detector without PyTorch: NumPy, OpenCV, and ONNX Runtime or OpenVINO.

    from mmdet_mobileformer.runtime import Detector
    detector = Detector("model.onnx")
    found = detector.predict("street.jpg")
    detector.draw("street.jpg", found, "street_found.jpg")
"""

from __future__ import annotations

from .detector import Detections, Detector, default_model, shipped_models
from .drawing import draw, write_picture
from .metadata import ModelInfo
from .picture import read_picture

__all__ = [
    "Detections",
    "Detector",
    "ModelInfo",
    "default_model",
    "draw",
    "read_picture",
    "shipped_models",
    "write_picture",
]
