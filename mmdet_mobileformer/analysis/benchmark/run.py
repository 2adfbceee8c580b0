"""Interleaved runs of many models, and what they say."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...version import __version__
from .engines import ENGINES, missing, versions
from .worker import Case, environment, work

#: Seconds without an answer after which a process is given up.
PATIENCE = 3600


class Worker:
    """A process of :func:`work` and what it measured.

    Raises:
        ValueError: If what it is to time does not work; the message is its sentence.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.runs: list[dict[str, Any]] = []
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(case, other), daemon=True)
        self._process.start()
        other.close()
        self.info: dict[str, Any] = self._answer()

    def ask(self, order: str) -> Any:
        """Send an order and wait for its answer."""
        self._pipe.send(order)
        return self._answer()

    def _answer(self) -> Any:
        if not self._pipe.poll(PATIENCE):
            raise ValueError(f"{self.case.label} did not answer for {PATIENCE} s")
        try:
            word, value = self._pipe.recv()
        except EOFError:
            raise ValueError(
                f"the process of {self.case.label} died: most often for lack of memory"
            ) from None
        if word == "error":
            raise ValueError(value)
        return value

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError, ValueError):
            self._pipe.send("stop")
        self._process.join(10)
        if self._process.is_alive():
            self._process.terminate()
        self._pipe.close()


def check_engines(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The engines that are installed, and a sentence for each that is not.

    Raises:
        ValueError: If a name is unknown, or none is left.
    """
    found, sentences = [], []
    for name in names:
        if name not in ENGINES:
            raise ValueError(f"there is no engine {name}: choose from {', '.join(ENGINES)}")
        if absent := missing(name):
            sentences.append(f"engine {name} left out: pip install {' '.join(absent)}")
        else:
            found.append(name)
    if not found:
        raise ValueError("; ".join(sentences))
    return found, sentences


def measure(
    cases: Sequence[Case], runs: int, seconds: float | None, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Time cases of one size against each other: A B C A B C ...

    Args:
        cases: With the same threads; the machine's own rates are measured among them.
        runs: Timed runs of each.
        seconds: Stop earlier, after a whole round, when all together took so long; None: never.
        say: Receives lines on the progress.

    Returns:
        A result per case, as in the JSON file; see :func:`summary`.

    Raises:
        ValueError: If a case does not work.
    """
    environment(cases[0].threads)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        workers = [_start(Case("", threads=cases[0].threads, mode="machine"), stack)]
        for number, case in enumerate(_exported(cases, Path(folder), say), 1):
            start = time.perf_counter()
            workers.append(_start(case, stack))
            took = time.perf_counter() - start
            say(f"[{number}/{len(cases)}] {case.label} ready after {took:.0f} s")
        start = time.perf_counter()
        for _ in range(runs):
            for worker in workers:
                worker.runs.append(worker.ask("run"))
            if seconds is not None and time.perf_counter() - start > seconds:
                break
        for worker in workers[1:]:
            worker.info["memory"] = worker.ask("memory")
            if worker.case.parts and worker.case.engine == "eager":
                worker.info["parts"] = worker.ask("parts")
        machine = rates(workers[0])
        return [summary(worker, machine) for worker in workers[1:]]


def _start(case: Case, stack: contextlib.ExitStack) -> Worker:
    worker = Worker(case)
    stack.callback(worker.close)
    return worker


def _exported(cases: Sequence[Case], folder: Path, say: Callable[[str], None]) -> Iterator[Case]:
    """The cases, each exported model in a folder of its own, written by a process that ends."""
    made: dict[str, str] = {}
    for case in cases:
        if case.engine in ("eager", "compile"):
            yield case
            continue
        if case.name not in made:
            made[case.name] = str(folder / str(len(made)))
            Path(made[case.name]).mkdir()
            say(f"exporting {case.name}")
            with contextlib.closing(Worker(replace(case, mode="export", folder=made[case.name]))):
                pass
        yield replace(case, folder=made[case.name])


def rates(worker: Worker) -> dict[str, float]:
    """The machine's rates in the same rounds: multiply-adds x 2 and bytes, per second."""
    product = float(np.median([run["times"]["product"] for run in worker.runs]))
    copy = float(np.median([run["times"]["copy"] for run in worker.runs]))
    return dict(
        product_gflops=2 * worker.info["madds"] / product / 1e9,
        copy_gbs=worker.info["bytes"] / copy / 1e9,
    )


def summary(worker: Worker, machine: dict[str, float]) -> dict[str, Any]:
    """What one worker measured, in milliseconds, MB and G.

    ``share`` is the part of the machine's matrix-product rate that the network reaches, with
    ``madds`` counted on the model as its config builds it.
    """
    case = worker.case
    totals = np.array([sum(run["times"].values()) for run in worker.runs]) * 1e3
    steps = {
        key: round(float(np.median([run["times"][key] for run in worker.runs])) * 1e3, 3)
        for key in worker.runs[0]["times"]
    }
    network = sum(steps.values()) if case.mode == "train" else steps["network"]
    reached = 2 * worker.info["madds"] / (network * 1e-3) / 1e9
    return dict(
        config=case.name,
        engine=case.engine,
        mode=case.mode,
        height=case.shape[0],
        width=case.shape[1],
        batch=case.batch,
        threads=case.threads,
        prepared=worker.info["prepared"],
        runs=len(totals),
        median_ms=round(float(np.median(totals)), 3),
        p95_ms=round(float(np.percentile(totals, 95)), 3),
        least_ms=round(float(totals.min()), 3),
        core_ms=round(float(np.median([run["cpu"] for run in worker.runs])) * 1e3, 3),
        steps_ms=steps,
        memory_mb=round(worker.info["memory"] / 1e6, 1),
        madds_g=round(worker.info["madds"] / 1e9, 3),
        params_m=round(worker.info["params"] / 1e6, 3),
        gflops=round(reached, 2),
        share=round(reached / machine["product_gflops"], 4),
        machine={key: round(value, 2) for key, value in machine.items()},
        parts_ms=worker.info.get("parts", {}),
    )


def compare(results: Sequence[dict[str, Any]], baseline: str | None) -> None:
    """Give every result the ratio of its median to the baseline's in the same engine and size.

    Raises:
        ValueError: If no result is the baseline's.
    """
    if baseline is None:
        return
    where = {
        (r["engine"], r["height"], r["width"]): r for r in results if r["config"] == baseline
    }
    if not where:
        raise ValueError(f"--baseline {baseline} is none of the configs that are timed")
    for result in results:
        base = where[result["engine"], result["height"], result["width"]]
        result["ratio"] = round(result["median_ms"] / base["median_ms"], 4)
        result["core_ratio"] = round(result["core_ms"] / base["core_ms"], 4)
        result["memory_ratio"] = round(result["memory_mb"] / base["memory_mb"], 4)


def describe_machine() -> dict[str, Any]:
    """Processor, cores, load and versions."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return dict(
        processor=name,
        cores=os.cpu_count(),
        load=round(os.getloadavg()[0], 2),
        python=platform.python_version(),
        package=__version__,
        **versions(),
    )


def cases_of(
    names: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    engines: Sequence[str],
    common: Case,
) -> Iterator[list[Case]]:
    """For each size the cases of all configs and engines."""
    for shape in shapes:
        yield [
            replace(common, name=name, engine=engine, shape=shape)
            for engine, name in itertools.product(engines, names)
        ]
