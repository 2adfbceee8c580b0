"""A process for each model and engine, which runs when it is told to.

Apart from each other, the models share neither memory nor threads, so that peak memory is one
model's; and any order of runs can be had.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch

from ...swap.common import one_line
from ..flops import count
from . import engines, models
from .parts import breakdown

#: Side of the matrices whose product gives the machine's rate, and floats that are copied (128 MB).
MATRIX, COPIED = 1536, 1 << 25
#: Objects in each image of a training step: COCO's mean is 7.
OBJECTS = 7
#: A run of fewer seconds follows an untimed one: another process has just had the caches.
SHORT = 0.1


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        name: Config, ``mmdet::...``, either with ``#backbone``; '' for the machine itself.
        engine: One of :data:`engines.ENGINES`.
        shape: Height and width of the images in pixels.
        batch: Images in a batch.
        threads: Threads of torch or of the engine.
        mode: ``'predict'``, ``'train'``, ``'machine'`` or ``'export'``.
        preparation: One of :data:`models.PREPARATIONS`.
        preprocessing: Whether each run starts with the detector's normalisation of 8-bit images.
        warmup: Runs that are not timed.
        parts: Runs of the breakdown into parts.
        folder: Where exported models lie.
        options: Settings of the config to override.
    """

    name: str
    engine: str = "eager"
    shape: tuple[int, int] = (800, 1344)
    batch: int = 1
    threads: int = 2
    mode: str = "predict"
    preparation: str = "deploy"
    preprocessing: bool = False
    warmup: int = 3
    parts: int = 0
    folder: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name and engine."""
        return f"{self.name} ({self.engine})"


#: A timed run: seconds of each step in order; the sum is the time.
Subject = Callable[[], "dict[str, float]"]


class Machine:
    """The machine's own rates: what any model is limited by."""

    def __init__(self) -> None:
        self.a, self.b = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
        self.out = torch.empty_like(self.a)
        self.source = torch.rand(COPIED)
        self.target = torch.empty_like(self.source)
        self.info = dict(madds=MATRIX**3, bytes=2 * 4 * COPIED)

    def __call__(self) -> dict[str, float]:
        """One product and one copy."""
        start = time.perf_counter()
        torch.mm(self.a, self.b, out=self.out)
        middle = time.perf_counter()
        self.target.copy_(self.source)
        return dict(product=middle - start, copy=time.perf_counter() - middle)


class Prediction:
    """A network in an engine, with post-processing and, if asked for, preprocessing."""

    def __init__(self, case: Case) -> None:
        cfg = models.load(case.name, case.options)
        model = models.build(cfg, case.name)
        self.preprocessor = getattr(model, "data_preprocessor", None) if case.preprocessing else None
        part = models.part_of(model, case.name)
        counted = count(models.Network(part, case.shape, case.batch), case.shape, case.batch)
        torchs_own = case.engine in ("eager", "compile")
        part, prepared = models.prepare(part, case.preparation, compiled=torchs_own)
        self.network = models.Network(part, case.shape, case.batch)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(case.batch, 3, *case.shape, generator=generator)
        self.raw = torch.randint(0, 256, (case.batch, 3, *case.shape), generator=generator).byte()
        self.network.learn_structure(self.images)
        self.info = dict(
            madds=counted.total_madds, params=counted.total_params, prepared=prepared,
            splits=self.network.splits,
        )
        if not torchs_own and not self.network.splits:
            raise ValueError(
                f"{case.name} is not of one stage, so that it cannot be exported here: time it with "
                "the engines eager and compile"
            )
        folder = Path(case.folder)
        if case.mode == "export":
            engines.export(self.network, self.images, folder / "network.onnx")
            return
        self.run = engines.start(case.engine, self.network, self.images, case.threads, folder)
        if not torchs_own:
            # They have their own copy; only the head's post-processing is still called.
            for parameter in self.network.parameters():
                parameter.data = torch.empty(0)

    def parts(self, runs: int) -> dict[str, float]:
        """Milliseconds of each part of the network, see :func:`breakdown`."""
        return breakdown(self.network.model, lambda: self.network(self.images), runs)

    def __call__(self) -> dict[str, float]:
        """Preprocessing if asked for, network, post-processing."""
        times = {}
        start = time.perf_counter()
        images = self.images
        if self.preprocessor is not None:
            data = dict(inputs=list(self.raw), data_samples=self.network.samples)
            images = self.preprocessor(data)["inputs"]
            times["preprocessing"] = time.perf_counter() - start
        middle = time.perf_counter()
        outputs = self.run(images)
        times["network"] = time.perf_counter() - middle
        middle = time.perf_counter()
        self.network.boxes(outputs)
        times["postprocessing"] = time.perf_counter() - middle
        return times


class Training:
    """A detector's training step, with the optimizer of its config."""

    def __init__(self, case: Case) -> None:
        from mmengine.optim import build_optim_wrapper

        from ...kernel_caches import TRAINING_ENTRIES, bound_kernel_caches
        from ...kernels import kernels_available
        from ...train.process import prepare_process

        # As tools/train.py does on CPUs.
        bound_kernel_caches(TRAINING_ENTRIES)
        prepare_process()
        kernels_available()
        cfg = models.load(case.name, case.options)
        self.model: Any = models.build(cfg, case.name).train()
        self.images = torch.randn(case.batch, 3, *case.shape)
        self.samples = models.samples(case.shape, case.batch, OBJECTS)
        self.optimizer = build_optim_wrapper(self.model, cfg.optim_wrapper)
        counted = count(models.Network(self.model, case.shape, case.batch), case.shape, case.batch)
        if case.engine == "compile":
            self.model.compile()
        self.info = dict(
            # A backward pass multiplies twice as much: for the inputs and for the weights.
            madds=3 * counted.total_madds,
            params=counted.total_params,
            prepared="as its config says",
        )

    def __call__(self) -> dict[str, float]:
        """Forward with loss, backward, optimizer."""
        start = time.perf_counter()
        loss, _ = self.model.parse_losses(self.model(self.images, self.samples, mode="loss"))
        forward = time.perf_counter()
        self.optimizer.backward(loss)
        backward = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad()
        step = time.perf_counter()
        return dict(forward=forward - start, backward=backward - forward, optimizer=step - backward)


_SUBJECTS: dict[str, Callable[[Case], Any]] = {
    "predict": Prediction,
    "export": Prediction,
    "train": Training,
    "machine": lambda case: Machine(),
}


def work(case: Case, pipe: Connection) -> None:
    """The process: says what it has, then obeys ``'run'``, ``'parts'``, ``'memory'`` and ``'stop'``.

    Every answer is a pair of a word and a value; ``('error', sentence)`` ends the process.
    """
    try:
        _work(case, pipe)
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        pass  # nobody waits for an answer any more
    except Exception as error:  # whatever a model or an engine raises
        plain = isinstance(error, (ValueError, FileNotFoundError))
        pipe.send(("error", str(error) if plain else f"{case.label}: {one_line(error)}"))


def _work(case: Case, pipe: Connection) -> None:
    warnings.simplefilter("ignore")  # of the packages below, the same in every process
    torch.set_num_threads(case.threads)
    # Numbers close to zero would be slow, and trained weights have none.
    torch.set_flush_denormal(True)
    _import_engine(case.engine)
    before = resident()
    training = case.mode == "train"
    with torch.inference_mode(mode=not training):
        subject = _SUBJECTS[case.mode](case)
        if case.mode == "export":
            pipe.send(("ready", subject.info))
            return
        took = SHORT
        for _ in range(case.warmup):
            start = time.perf_counter()
            subject()
            took = time.perf_counter() - start
        pipe.send(("ready", subject.info))
        _trim()
        reset_peak()
        while (order := pipe.recv()) != "stop":
            if order == "run":
                if took < SHORT:
                    subject()
                cpu = time.process_time()
                times = subject()
                pipe.send(("run", dict(times=times, cpu=time.process_time() - cpu)))
            elif order == "parts":
                pipe.send(("parts", subject.parts(case.parts)))
            elif order == "memory":
                pipe.send(("memory", max(peak(), resident()) - before))


def _import_engine(engine: str) -> None:
    """Imports are no model's memory."""
    if engine == "compile":
        import torch._inductor.compile_fx  # noqa: F401
    elif engine != "eager":
        __import__(engine)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Make the peak begin anew, where the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("benchmark: no peak since the warm-up here; memory is the highest ever", file=sys.stderr)


def peak() -> int:
    """Bytes of this process in memory at most, since :func:`reset_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        factor = 1 if sys.platform == "darwin" else 1024
        return factor * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _trim() -> None:
    """Give what building and compiling freed back to the system (glibc)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def environment(threads: int) -> None:
    """Threads of the processes that are started from now on, before they import torch."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


