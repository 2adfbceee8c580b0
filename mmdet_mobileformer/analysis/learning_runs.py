"""Runs of the benchmark of learning: train one, write what came out, know which are missing (ours).

The results file has one JSON object per line and is only ever appended to. A run that was cut leaves no
line, so it is missing still, and is repeated.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from ..data.shapes import make_shapes
from ..train.demo import free_port
from .benchmark.run import describe_machine
from .curves import read_log
from .learning import AVERAGES, CANDIDATES, TASKS, Places, Run
from .learning_config import config_hash, run_config, split_training_set

#: Wall time of a run over its minutes: start, validations, tests.
OVERHEAD = 1.25
#: What a training that stops at a loss or gradient that is not finite says (train/finite.py).
_DIVERGED = "training stopped at iteration"


@dataclass(frozen=True)
class Result:
    """A finished run: one line of the results file.

    Attributes:
        config_hash: :func:`~mmdet_mobileformer.analysis.learning_config.config_hash` of the run.
        commit: Git commit of the checkout; ``+`` follows where the code had changes.
        iterations: Steps of the training.
        torch: Version of torch.
        cpu: The processor and the instructions torch uses of it: minutes of one are not those of another.
        curve: (minutes, AP on the 200 pictures of choices).
        select_ap, select_ap50: AP and AP50 on these after the last step.
        ap, ap50: The same on the validation set; of reported rows alone.
        diverged: Whether the training stopped at a loss or gradient that was not finite.
        finished: Time stamp, UTC.
    """

    kind: str
    task: str
    model: str
    config: str
    config_hash: str
    commit: str
    seed: int
    lr: float
    augmentation: str
    minutes: float
    iterations: int
    processes: int
    threads: int
    torch: str
    cpu: str
    curve: list[tuple[float, float]] = field(default_factory=list)
    select_ap: float = 0.0
    select_ap50: float = 0.0
    ap: float | None = None
    ap50: float | None = None
    diverged: bool = False
    finished: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes two runs the same run."""
        return (self.kind, self.config_hash, self.seed)


def read_results(file: str | Path) -> list[Result]:
    """All lines of a results file; none if there is no file.

    Raises:
        ValueError: Naming the line that is none of ours.
    """
    path = Path(file)
    if not path.is_file():
        return []
    names = {f.name for f in fields(Result)}
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            unknown = set(values) - names
            if unknown:
                raise ValueError(f"unknown {', '.join(sorted(unknown))}")
            values["curve"] = [(float(x), float(y)) for x, y in values.get("curve", [])]
            results.append(Result(**values))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"line {number} of {path} is no result of this benchmark ({error}): restore the "
                "file from git"
            ) from error
    return results


def append_result(file: str | Path, result: Result) -> None:
    """Add one line, whole or not at all, and put it on the disk."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    with path.open("ab") as stream:
        stream.write((json.dumps(values) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


@dataclass(frozen=True)
class Settings:
    """What all runs of a plan have in common.

    Attributes:
        minutes: Budget in place of the tasks' own, for a try; None for these.
        processes, threads: As in :class:`~mmdet_mobileformer.analysis.learning.Run`.
        seeds: Seeds of reported rows.
        cpu: The processor (:attr:`Result.cpu`) whose rows count alone, since in the same minutes
            another does more steps or fewer; None for all.
        here: The processor of this machine.
    """

    minutes: float | None = None
    processes: int = 2
    threads: int = 1
    seeds: Sequence[int] = (0,)
    cpu: str | None = None
    here: str = field(default_factory=lambda: this_cpu())


def known(results: Iterable[Result]) -> dict[tuple[str, str, int], Result]:
    """Results by key; of several the last."""
    return {result.key: result for result in results}


def find(run: Run, done: Mapping[tuple[str, str, int], Result]) -> Result | None:
    """The result of a run as its config is now; None if it is missing."""
    return done.get((run.kind, config_hash(run), run.seed))


def average_of(result: Result) -> str | None:
    """The moving average a result was trained with, a key of AVERAGES, if all else is as now; else None."""
    candidate = CANDIDATES.get(result.model)
    if candidate is None or candidate.config != result.config:
        return None
    for ema in AVERAGES:
        run = Run(
            result.kind, result.task, result.model, result.config, result.lr, result.augmentation, result.seed,
            result.minutes, result.processes, result.threads, ema=ema,
        )
        if config_hash(run) == result.config_hash:
            return ema
    return None


def this_cpu() -> str:
    """The processor of this machine as results name it."""
    return f"{describe_machine()['processor']}, {torch.backends.cpu.get_cpu_capability()}"


def code_state(root: Path) -> str:
    """The commit of a checkout, with ``+`` where the package or the configs have changes."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    changed = git("status", "--porcelain", "--", "mmdet_mobileformer", "configs", "tools/train.py")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


class DataFolders:
    """The data sets of the tasks; the training sets are split when they are first needed.

    Args:
        shapes: Where the embedded set is or will be drawn.
        coco_mini: A folder in COCO's layout.
        work_dir: Where the split's annotation files go.
    """

    def __init__(self, shapes: Path, coco_mini: Path, work_dir: Path) -> None:
        self.roots = dict(shapes=shapes, coco_mini=coco_mini)
        self.work_dir = work_dir

    def places(self, task: str) -> Places:
        """The folders of a task's data.

        Raises:
            FileNotFoundError: If it is not there.
        """
        data = TASKS[task].data
        if data == "shapes":
            make_shapes(self.roots[data])
        return split_training_set(data, self.roots[data], self.work_dir / "data" / data)


def execute(run: Run, places: Places, root: Path, work_dir: Path, keep: bool = False) -> Result:
    """Train, measure the curve on the pictures of choices, and a reported row on the validation set.

    Args:
        run: What to train.
        places: Its data.
        root: The checkout, for tools/train.py.
        work_dir: A new folder for this run is made there.
        keep: Whether the checkpoint stays.

    Returns:
        The result, whose line the caller writes.

    Raises:
        RuntimeError: If training or test fail; the sentence names the log.
    """
    digest = config_hash(run)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = work_dir / "runs" / f"{stamp}-{run.task}-{run.model}-{digest}-{run.seed}"
    folder.mkdir(parents=True)
    config = folder / "config.py"
    run_config(run, places).dump(str(config))
    common = dict(
        kind=run.kind, task=run.task, model=run.model, config=run.config, config_hash=digest,
        commit=code_state(root), seed=run.seed, lr=run.lr, augmentation=run.augmentation,
        minutes=run.minutes, processes=run.processes, threads=run.threads, torch=torch.__version__,
        cpu=this_cpu(),
    )
    trained = folder / "train"
    flags = ["--work-dir", str(trained), "--skip-doctor"]
    if run.processes == 1:
        command = [sys.executable, str(root / "tools" / "train.py"), str(config), *flags]
    else:
        script = str(root / "tools" / "dist_train.sh")
        command = ["bash", script, str(config), str(run.processes), *flags]
    failure = _call(command, run, root, folder / "train.txt")
    if failure is not None:
        if _DIVERGED in failure:
            return _result(common, iterations=0, diverged=True)
        raise RuntimeError(f"{run.label}: the training failed, see {folder / 'train.txt'}")
    points = [record for record in read_log(trained).val if "minutes" in record]
    if not points or points[-1]["minutes"] < run.minutes:
        raise RuntimeError(f"{run.label}: the training was cut, see {folder / 'train.txt'}")
    checkpoint = Path((trained / "last_checkpoint").read_text().strip())
    scores: dict[str, Any] = {}
    if run.kind == "report":
        tested = folder / "test"
        command = [sys.executable, str(root / "tools" / "test.py"), str(config), str(checkpoint)]
        command += ["--work-dir", str(tested)]
        if _call(command, run, root, folder / "test.txt") is not None:
            raise RuntimeError(f"{run.label}: the test failed, see {folder / 'test.txt'}")
        (file,) = tested.glob("*/*.json")
        metrics = json.loads(file.read_text())
        scores = dict(ap=_metric(metrics, "bbox_mAP"), ap50=_metric(metrics, "bbox_mAP_50"))
    if not keep:
        for file in trained.glob("*.pth"):
            file.unlink()
    return _result(
        common,
        iterations=int(points[-1]["iterations"]),
        curve=[(round(p["minutes"], 3), _metric(p, "bbox_mAP")) for p in points],
        select_ap=_metric(points[-1], "bbox_mAP"),
        select_ap50=_metric(points[-1], "bbox_mAP_50"),
        **scores,
    )


def _result(common: dict[str, Any], **values: Any) -> Result:
    return Result(**common, **values, finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


def _metric(record: Mapping[str, Any], name: str) -> float:
    """A COCO metric; 0 where mmdet gives none, since nothing was detected."""
    return max(0.0, float(record.get(f"coco/{name}", 0.0)))


def _call(command: list[str], run: Run, root: Path, log: Path) -> str | None:
    """Run a program into a log; returns its last lines if it fails."""
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PORT": str(free_port()),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": str(run.threads),
        # The budget is one of cores.
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    with log.open("w") as stream, subprocess.Popen(
        command, env=environment, stdout=stream, stderr=subprocess.STDOUT
    ) as process:
        try:
            code = process.wait()
        except BaseException:
            # Asked to end itself it ends its own processes, too.
            process.terminate()
            process.wait()
            raise
    return None if code == 0 else log.read_text(errors="replace")[-6000:]


def work_off(
    next_run: Callable[[], Run | None],
    folders: DataFolders,
    file: Path,
    root: Path,
    hours: float,
    keep: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Do missing runs one after the other until the time is over.

    No run is started that would not end in time.

    Args:
        next_run: Gives the next missing run, which depends on the results so far; None if all are done.
        folders: The data.
        file: The results file.
        root: The checkout.
        hours: Time of this session.
        keep: Whether checkpoints stay.
        say: Takes a line per run.

    Returns:
        Number of runs that were done.
    """
    end = time.monotonic() + hours * 3600
    count = 0
    # A session that is ended takes its training along.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while (run := next_run()) is not None:
        left = (end - time.monotonic()) / 60
        if run.minutes * OVERHEAD > left:
            say(f"{left:.0f} minutes are left, too few for: {run.label}")
            break
        result = execute(run, folders.places(run.task), root, folders.work_dir, keep)
        append_result(file, result)
        count += 1
        score = f"AP {result.select_ap:.3f} on the pictures of choices"
        if result.ap is not None:
            score += f", {result.ap:.3f} on val"
        say(f"{run.label}: {'diverged' if result.diverged else score}, {result.iterations} steps")
    else:
        say("all runs are done")
    return count
