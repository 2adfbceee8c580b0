"""The command mobileformer-detect."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from .detector import Detector
    from .results import CocoResults
    from .sources import Sources

_MODELS = (".onnx", ".xml")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the first input is the model if it ends in .onnx or .xml."""
    parser = argparse.ArgumentParser(
        prog="mobileformer-detect",
        description="Find objects in pictures, a video or a camera's view, without PyTorch.",
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="[MODEL] INPUT",
        help="MODEL (.onnx, or .xml of OpenVINO; without it the shipped one), then pictures and "
        "folders, or a video, or a camera's number",
    )
    add("--out", type=Path, help="new folder for results.json and what is drawn")
    add("--no-pictures", action="store_true", help="write results.json alone, draw nothing")
    add("--threshold", type=float, help="lowest score (default: the model's)")
    add("--ann", metavar="FILE", help="COCO annotation file whose image and category ids to use")
    add("--engine", choices=["onnxruntime", "openvino"], help="default: by the model's ending")
    add("--threads", type=int, help="cores to use (default: all)")
    add("--frames", type=int, metavar="N", help="stop a video or camera after N frames")
    args = parser.parse_args(argv)
    args.model = None
    if args.inputs[0].endswith(_MODELS):
        args.model, *args.inputs = args.inputs
    if not args.inputs:
        parser.error("name pictures, a folder, a video or a camera's number after the model")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        parser.error(f"--threshold is {args.threshold:g}: give a score from 0 to 1")
    for name in ("threads", "frames"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 1 where something could not be read."""
    args = parse_args(argv)
    try:
        return _run(args)
    except (FileExistsError, FileNotFoundError, ImportError, PermissionError, ValueError) as error:
        print(f"mobileformer-detect: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.out is not None and args.out.exists():
        raise FileExistsError(f"{args.out} exists already: give a new folder")
    from .detector import Detector
    from .results import CocoResults
    from .sources import find_sources

    sources = find_sources(args.inputs)
    detector = Detector(args.model, args.engine, args.threads)
    results = CocoResults(detector.info.classes, args.ann)
    strangers = [name for _, name in sources.pictures if not results.knows(name)]
    if strangers or (sources.video is not None and args.ann is not None):
        what = f"does not name {strangers[0]}" if strangers else "cannot name a video's frames"
        raise ValueError(f"{args.ann} {what}: leave --ann out, or name the folder of its images")
    start = time.perf_counter()
    if sources.video is None:
        failures = _pictures(args, sources, detector, results)
    else:
        _video(args, sources, detector, results)
        failures = 0
    seconds = time.perf_counter() - start
    done = len(results.images()["images"])
    rate = f", {done / seconds:.1f} per second in all" if done else ""
    print(f"{len(results.results)} detections in {done} pictures{rate}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        results.write(args.out)
        print(f"written to {args.out}")
    return 1 if failures else 0


def _pictures(
    args: argparse.Namespace, sources: Sources, detector: Detector, results: CocoResults
) -> int:
    """Returns how many could not be read."""
    from .drawing import draw, write_picture
    from .picture import read_picture

    failures: list[str] = []
    progress = Progress(len(sources.pictures))
    for file, name in sources.pictures:
        try:
            picture = read_picture(file)
            found = detector.predict(picture, args.threshold)
        except ValueError as error:  # one bad picture does not end the run
            failures.append(str(error))
        else:
            results.add(name, picture.shape[1], picture.shape[0], found)
            if args.out is None:
                progress.say(f"{name}: {_summary(found.names)}")
            elif not args.no_pictures:
                out = args.out / "pictures" / name
                out.parent.mkdir(parents=True, exist_ok=True)
                write_picture(out, draw(picture, found))
        progress.step()
    progress.close()
    for sentence in failures:
        print(f"mobileformer-detect: left out: {sentence}", file=sys.stderr)
    return len(failures)


def _video(
    args: argparse.Namespace, sources: Sources, detector: Detector, results: CocoResults
) -> None:
    from .drawing import draw
    from .sources import Video, VideoWriter

    if sources.video is None:
        return
    video = Video(sources.video)
    writer = None
    if args.out is not None and not args.no_pictures:
        args.out.mkdir(parents=True)
        writer = VideoWriter(args.out / "video.mp4", video.rate)
    least = [count for count in (video.frames, args.frames) if count is not None]
    progress = Progress(min(least) if least else None)
    try:
        for number, frame in enumerate(video, start=1):
            found = detector.predict(frame, args.threshold)
            results.add(f"{video.name}#{number}", frame.shape[1], frame.shape[0], found)
            if writer is not None:
                writer.add(draw(frame, found))
            elif args.out is None:
                progress.say(f"{video.name}#{number}: {_summary(found.names)}")
            progress.step()
            if number == args.frames:
                break
    except KeyboardInterrupt:  # how a camera is ended: what was seen is kept
        pass
    finally:
        progress.close()
        video.close()
        if writer is not None:
            writer.close()


def _summary(names: Sequence[str]) -> str:
    counts = {name: names.count(name) for name in names}
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"


class Progress:
    """A bar on a terminal; nothing where the output is kept in a file.

    Args:
        total: How many steps; None if that is not known.
        stream: Where it is drawn.
    """

    WIDTH = 30

    def __init__(self, total: int | None, stream: TextIO | None = None) -> None:
        self.total, self.done = total, 0
        self.stream = sys.stderr if stream is None else stream
        self.start = self._shown = time.perf_counter()

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        now = time.perf_counter()
        if self.stream.isatty() and (now - self._shown > 0.1 or self.done == self.total):
            self._shown = now
            self.stream.write("\r" + self.line(now - self.start))
            self.stream.flush()

    def line(self, seconds: float) -> str:
        """The bar's text after so many seconds."""
        rate = self.done / max(seconds, 1e-9)
        if self.total is None:
            return f"{self.done}  {rate:.1f}/s"
        full = round(self.WIDTH * self.done / self.total)
        left = (self.total - self.done) / max(rate, 1e-9)
        bar = "#" * full + "." * (self.WIDTH - full)
        return f"[{bar}] {self.done}/{self.total}  {rate:.1f}/s  {left:.0f} s left "

    def say(self, text: str) -> None:
        """Print a line without tearing the bar."""
        if self.stream.isatty():
            self.stream.write("\r" + " " * (self.WIDTH + 40) + "\r")
            self.stream.flush()
        print(text, flush=True)

    def close(self) -> None:
        """End the bar's line."""
        if self.stream.isatty() and self.done:
            self.stream.write("\n")
