"""The detector: pictures in, boxes in their own pixels out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

import numpy as np

from .engine import Engine, load_engine
from .metadata import ModelInfo
from .picture import check_picture, network_input, read_picture

#: A file, or RGB uint8 (H, W, 3).
Picture = Union[str, "os.PathLike[str]", np.ndarray]


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, best first.

    Attributes:
        boxes: (M, 4) float32 as x1, y1, x2, y2 in px of the picture as given.
        scores: (M,) float32, 0 to 1.
        labels: (M,) int64, indices into ``classes``.
        classes: The model's class names.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.classes[label] for label in self.labels]

    def above(self, threshold: float) -> Detections:
        """Those with a score of at least ``threshold``."""
        kept = self.scores >= threshold
        return Detections(self.boxes[kept], self.scores[kept], self.labels[kept], self.classes)


def shipped_models() -> dict[str, Path]:
    """Models inside this package, by name."""
    folder = Path(__file__).parent / "models"
    return {file.stem: file for file in sorted(folder.glob("*.onnx"))}


def default_model() -> Path:
    """The shipped model.

    Raises:
        FileNotFoundError: If this installation ships none.
    """
    models = shipped_models()
    if not models:
        raise FileNotFoundError(
            "no model is shipped with this installation: name an .onnx file, made by "
            "tools/deployment/export.py"
        )
    return next(iter(models.values()))


class Detector:
    """An exported detector::

        detector = Detector("model.onnx")
        found = detector.predict("street.jpg")
        detector.draw("street.jpg", found, "street_found.jpg")

    Args:
        model: ``.onnx``, or the ``.xml`` of OpenVINO's IR; None takes the shipped model.
        engine: ``'onnxruntime'`` or ``'openvino'``; None chooses by file and installation.
        threads: Cores to use; None leaves it to the engine.

    Attributes:
        info: The model's description.
        engine: What runs it.

    Raises:
        FileNotFoundError: If there is no such model.
        ImportError: If no engine for it is installed.
        ValueError: If it is no model of this package's export.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        engine: str | None = None,
        threads: int | None = None,
    ) -> None:
        file = default_model() if model is None else Path(model)
        self.engine: Engine = load_engine(file, engine, threads)
        self.info = ModelInfo.from_json(self.engine.description, str(file))
        if self.info.pad_divisor != 1:
            raise ValueError(
                f"model {file} wants sides that are multiples of {self.info.pad_divisor}, which this "
                "runtime does not make"
            )

    def predict(self, picture: Picture, threshold: float | None = None) -> Detections:
        """Find objects.

        Args:
            picture: A file, or RGB uint8 (H, W, 3).
            threshold: Lowest score; None takes the model's, 0 keeps all queries.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no picture, or too narrow for the network.
        """
        return next(self.predict_many([picture], threshold))

    def predict_many(
        self, pictures: Sequence[Picture], threshold: float | None = None
    ) -> Iterator[Detections]:
        """As :meth:`predict` for several; neighbours of one input size go through as one batch."""
        threshold = self.info.score_threshold if threshold is None else threshold
        batch: list[np.ndarray] = []
        sizes: list[tuple[int, int]] = []
        most = 8 if self.engine.batch is None else self.engine.batch
        for picture in pictures:
            array = load_picture(picture)
            image = network_input(array, self.info)
            if batch and (len(batch) == most or batch[0].shape != image.shape):
                yield from self._run(batch, sizes, threshold)
                batch, sizes = [], []
            batch.append(image)
            sizes.append((array.shape[0], array.shape[1]))
        if batch:
            yield from self._run(batch, sizes, threshold)

    def _run(
        self, batch: list[np.ndarray], sizes: list[tuple[int, int]], threshold: float
    ) -> Iterator[Detections]:
        # A file for a fixed batch gets full ones: what fills it up is dropped again.
        filled = batch + [batch[-1]] * ((self.engine.batch or len(batch)) - len(batch))
        outputs = self.engine.run(np.stack(filled))
        for (height, width), boxes, scores, labels in zip(sizes, *outputs):
            side = np.array([width, height, width, height], dtype=np.float32)
            yield Detections(boxes * side, scores, labels, self.info.classes).above(threshold)

    def draw(
        self, picture: Picture, found: Detections, out: str | os.PathLike[str] | None = None
    ) -> np.ndarray:
        """Draw detections into a copy of the picture, RGB uint8, and write it if ``out`` is given."""
        from .drawing import draw, write_picture

        drawn = draw(load_picture(picture), found)
        if out is not None:
            write_picture(out, drawn)
        return drawn


def load_picture(picture: Picture) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a file, or of an array after a check."""
    if isinstance(picture, np.ndarray):
        return check_picture(picture)
    return read_picture(picture)
