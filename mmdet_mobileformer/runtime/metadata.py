"""What an exported model says about itself: written by deploy, read here and by the browser page.

The keys are described in :mod:`mmdet_mobileformer.deploy`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

#: Key of the JSON text in the file's metadata.
KEY = "mobileformer"
#: Of the description; a reader refuses others.
FORMAT = 1


@dataclass(frozen=True)
class ModelInfo:
    """Description of an exported detector.

    Attributes:
        version: Of the package that exported it.
        config: Name of the config file, without ``.py``.
        classes: Class names; labels are indices into them.
        keep_ratio: Whether pictures keep their shape when they are resized.
        scale: ``keep_ratio``: the longer and the shorter side are at most these, in px; otherwise
            width and height of the input.
        mean, std: Of RGB in 0..255.
        normalized_inside: Whether the graph applies mean and std itself.
        score_threshold: A good default for showing boxes; the outputs are not filtered.
        pad_divisor: The input's sides are multiples of this; this runtime takes 1 alone.
    """

    version: str
    config: str
    classes: tuple[str, ...]
    keep_ratio: bool
    scale: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalized_inside: bool = True
    score_threshold: float = 0.3
    pad_divisor: int = 1

    def to_json(self) -> str:
        """The JSON text of the file's metadata."""
        return json.dumps(
            {
                "version": self.version,
                "format": FORMAT,
                "config": self.config,
                "classes": list(self.classes),
                "resize": {"keep_ratio": self.keep_ratio, "scale": list(self.scale)},
                "pad_divisor": self.pad_divisor,
                "input": {
                    "channel_order": "RGB",
                    "range": 255,
                    "normalized_inside": self.normalized_inside,
                    "mean": list(self.mean),
                    "std": list(self.std),
                },
                "score_threshold": self.score_threshold,
            }
        )

    @classmethod
    def from_json(cls, text: str | None, file: str) -> ModelInfo:
        """Read the text.

        Args:
            text: What stands in the file under :data:`KEY`; None if nothing does.
            file: The model's name, for errors.

        Raises:
            ValueError: If it is missing, of another format or damaged.
        """
        if not text:
            raise ValueError(
                f"model {file} carries no description of its input, so it is none of "
                "tools/deployment/export.py: export it with that"
            )
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(
                    f"model {file} has format {data['format']} and this runtime reads {FORMAT}: "
                    f"export it with this version, or install version {data['version']}"
                )
            return cls._from_data(data)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"the description inside model {file} is damaged ({type(error).__name__}: {error}): "
                "export it again"
            ) from error

    @classmethod
    def _from_data(cls, data: dict[str, Any]) -> ModelInfo:
        long_side, short_side = data["resize"]["scale"]
        picture = data["input"]
        return cls(
            version=str(data["version"]),
            config=str(data["config"]),
            classes=tuple(str(name) for name in data["classes"]),
            keep_ratio=bool(data["resize"]["keep_ratio"]),
            scale=(int(long_side), int(short_side)),
            mean=tuple(float(value) for value in picture["mean"]),
            std=tuple(float(value) for value in picture["std"]),
            normalized_inside=bool(picture["normalized_inside"]),
            score_threshold=float(data["score_threshold"]),
            pad_divisor=int(data["pad_divisor"]),
        )
