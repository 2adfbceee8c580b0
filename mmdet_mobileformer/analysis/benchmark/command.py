"""What ``tools/analysis_tools/benchmark.py`` does."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..flops import check_shape
from . import models, report
from .run import cases_of, check_engines, compare, describe_machine, measure
from .worker import Case

#: Runs of the breakdown at most.
PARTS = 10


def say(line: str) -> None:
    """Progress goes to stderr, results to stdout."""
    print(line, file=sys.stderr, flush=True)


def benchmark(args: argparse.Namespace, command: str) -> list[dict[str, Any]]:
    """Check everything, time, print and write; returns the results.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: With one sentence, most before any model runs.
    """
    report.check_new(args.json)
    engines, sentences = check_engines(args.engines)
    for sentence in sentences:
        say(sentence)
    for shape in args.sizes:
        check_shape(shape)
    for name in args.configs:
        models.load(name, args.cfg_options)
    if args.baseline is not None and args.baseline not in args.configs:
        raise ValueError(f"--baseline {args.baseline} is none of the configs that are timed")
    if args.train and set(engines) - {"eager", "compile"}:
        raise ValueError("--train works with the engines eager and compile")
    if args.breakdown and (args.train or "eager" not in engines):
        raise ValueError("--breakdown is of the forward pass in eager mode: add it to --engines")
    common = Case(
        name="",
        batch=args.batch,
        threads=args.threads,
        mode="train" if args.train else "predict",
        preparation=args.prepare,
        preprocessing=args.with_preprocessing,
        warmup=args.warmup,
        parts=min(args.runs, PARTS) if args.breakdown else 0,
        options=args.cfg_options or {},
    )
    machine = describe_machine()
    results: list[dict[str, Any]] = []
    for cases in cases_of(args.configs, args.sizes, engines, common):
        results += measure(cases, args.runs, args.seconds, say)
    compare(results, args.baseline)
    print(f"{report.treatment(results)}; batch {args.batch}, {results[0]['runs']} interleaved runs.")
    print(report.machine_line(results, machine) + "\n")
    print(report.table(results))
    for line in report.better_engine(results, args.baseline):
        print(f"\n{line}")
    for result in results:
        if result["parts_ms"]:
            print(f"\n{result['config']}, {report.size_of(result)}, eager, each part without those in it:\n")
            print(report.parts_table(result))
    if args.json is not None:
        report.write(args.json, results, machine, command, args.baseline)
    return results
