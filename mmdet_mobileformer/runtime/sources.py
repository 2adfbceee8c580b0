"""What the command takes: pictures, folders, videos, cameras."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

#: Endings of what OpenCV reads as pictures.
PICTURES = (
    ".bmp", ".dib", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


@dataclass(frozen=True)
class Sources:
    """Inputs of one run: either pictures, or one video or camera.

    Attributes:
        pictures: (file, name relative to the folder that was named).
        video: A video file, or the number of a camera; None for pictures.
    """

    pictures: tuple[tuple[Path, str], ...] = ()
    video: Path | int | None = None


def find_sources(inputs: Sequence[str]) -> Sources:
    """Sort out what was named on the command line.

    Args:
        inputs: Pictures and folders, or one video, or one camera's number.

    Raises:
        FileNotFoundError: If something is missing, or a folder has no picture.
        ValueError: If it is of no known kind, or kinds are mixed.
    """
    pictures: list[tuple[Path, str]] = []
    videos: list[Path | int] = []
    for text in inputs:
        path = Path(text)
        if text.isdigit() and not path.exists():
            videos.append(int(text))
        elif path.is_dir():
            found = sorted(file for file in path.rglob("*") if _is_picture(file))
            if not found:
                raise FileNotFoundError(f"folder {text} holds no picture ({', '.join(PICTURES)})")
            pictures += [(file, file.relative_to(path).as_posix()) for file in found]
        elif not path.is_file():
            raise FileNotFoundError(
                f"{text} does not exist: name pictures, a folder, a video, or a camera's number"
            )
        elif path.suffix.lower() in VIDEOS:
            videos.append(path)
        elif _is_picture(path):
            pictures.append((path, path.name))
        else:
            raise ValueError(
                f"{text} is neither a picture ({', '.join(PICTURES)}) nor a video "
                f"({', '.join(VIDEOS)}) by its ending"
            )
    if videos and (pictures or len(videos) > 1):
        raise ValueError("name one video or camera by itself, or any number of pictures and folders")
    names = [name for _, name in pictures]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise ValueError(f"{doubles[0]} is there twice: run the folders one after the other")
    return Sources(tuple(pictures), videos[0] if videos else None)


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES and file.is_file()


class Video:
    """A video file or camera, frame by frame.

    Args:
        source: A file, or a camera's number.

    Attributes:
        name: What it is called in results.
        frames: Number of frames as the file states it; None for a camera, or where it does not.
        rate: Frames per second; 25 where it is not stated.

    Raises:
        ValueError: If it cannot be opened.
    """

    def __init__(self, source: Path | int) -> None:
        camera = isinstance(source, int)
        self.name = f"camera {source}" if camera else Path(str(source)).name
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        if not self._capture.isOpened():
            what = f"camera {source} is not there" if camera else f"{source} is no video"
            raise ValueError(f"{what}, or OpenCV cannot open it")
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frames = count if count > 0 and not camera else None
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.rate = rate if 1 <= rate <= 240 else 25.0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames as RGB uint8 (H, W, 3)."""
        while True:
            fine, frame = self._capture.read()
            if not fine:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """Let go of the file or camera."""
        self._capture.release()


class VideoWriter:
    """Writes frames of one size to an .mp4.

    Args:
        file: The video to write.
        rate: Frames per second.
    """

    def __init__(self, file: Path, rate: float) -> None:
        self.file, self.rate = file, rate
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> None:
        """Append RGB uint8 (H, W, 3).

        Raises:
            ValueError: If OpenCV cannot write this kind of video here.
        """
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            size = (frame.shape[1], frame.shape[0])
            self._writer = cv2.VideoWriter(str(self.file), code, self.rate, size)
            if not self._writer.isOpened():
                raise ValueError(f"OpenCV cannot write {self.file} here")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
