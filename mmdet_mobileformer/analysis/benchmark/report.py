"""The benchmark's results as text: tables for a terminal and for the docs, and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TREATMENT = (
    "random weights, float32; the time is from normalised images to boxes: the network in its engine, "
    "then the detector's own post-processing in torch, with NMS where it has one"
)
WITH_PREPROCESSING = "before it the detector's normalisation of an 8-bit image"
TRAINING = (
    "a training step of the config's own recipe on random images with boxes: forward pass and loss, "
    "backward pass, clipping and optimizer"
)


def size_of(result: dict[str, Any]) -> str:
    """Height and width, ``800x1344``."""
    return f"{result['height']}x{result['width']}"


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for every result, a column for the ratio if there is a baseline."""
    with_ratio = any("ratio" in result for result in results)
    steps = list(dict.fromkeys(step for result in results for step in result["steps_ms"]))
    head = ["size", "config", "engine", "prepared", "median ms", "p95 ms"]
    head += ["ratio"] if with_ratio else []
    head += [f"{step} ms" for step in steps]
    head += ["core-ms"] + (["core ratio"] if with_ratio else [])
    head += ["GMAdds", "of the machine", "memory MB"]
    head += ["memory ratio"] if with_ratio else []
    rows = []
    for result in results:
        row = [size_of(result), f"`{result['config']}`", result["engine"], result["prepared"]]
        row += [f"{result['median_ms']:.1f}", f"{result['p95_ms']:.1f}"]
        row += [f"{result['ratio']:.3f}"] if with_ratio else []
        row += [f"{result['steps_ms'][s]:.1f}" if s in result["steps_ms"] else "" for s in steps]
        row += [f"{result['core_ms']:.0f}"]
        row += [f"{result['core_ratio']:.3f}"] if with_ratio else []
        row += [f"{result['madds_g']:.2f}"]
        row += [f"{100 * result['share']:.0f} %", f"{result['memory_mb']:.0f}"]
        row += [f"{result['memory_ratio']:.2f}"] if with_ratio else []
        rows.append(row)
    return markdown(head, rows)


def better_engine(results: Sequence[dict[str, Any]], baseline: str | None) -> list[str]:
    """Where both ONNX Runtime and OpenVINO ran: each model in the better one, against the baseline."""
    lines = []
    for size in dict.fromkeys(map(size_of, results)):
        best: dict[str, dict[str, Any]] = {}
        engines = set()
        for result in results:
            if size_of(result) == size and result["engine"] in ("onnxruntime", "openvino"):
                engines.add(result["engine"])
                kept = best.setdefault(result["config"], result)
                if result["median_ms"] < kept["median_ms"]:
                    best[result["config"]] = result
        if len(engines) == 2 and baseline in best:
            base = best[baseline]["median_ms"]
            lines += [
                f"{size}, the better of both engines: `{name}` {result['median_ms']:.1f} ms "
                f"({result['engine']}), ratio {result['median_ms'] / base:.3f}"
                for name, result in best.items()
            ]
    return lines


def parts_table(result: dict[str, Any]) -> str:
    """Markdown: the parts of one result, their milliseconds and shares, and the network's sum."""
    total = sum(result["parts_ms"].values())
    rows = [
        [part, f"{ms:.1f}", f"{100 * ms / total:.1f} %"] for part, ms in result["parts_ms"].items()
    ]
    return markdown(["part", "ms", "of the network"], [*rows, ["all", f"{total:.1f}", "100 %"]])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
        for line in [lines[0], rule, *lines[1:]]
    )


def machine_line(results: Sequence[dict[str, Any]], machine: dict[str, Any]) -> str:
    """What the machine is and what it reached between the runs."""
    products = [result["machine"]["product_gflops"] for result in results]
    copies = [result["machine"]["copy_gbs"] for result in results]
    threads = sorted({result["threads"] for result in results})
    engines = ", ".join(
        f"{name} {machine[name]}" for name in ("torch", "onnxruntime", "openvino") if name in machine
    )
    return (
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load']} at the start; "
        f"threads: {'/'.join(map(str, threads))}; {engines}. In the same rounds: matrix products "
        f"{_range(products)} GFLOP/s in float32, copies {_range(copies)} GB/s (read and written)."
    )


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.1f}" if low == high else f"{low:.1f} to {high:.1f}"


def treatment(results: Sequence[dict[str, Any]]) -> str:
    """What was timed, in a sentence."""
    if results[0]["mode"] == "train":
        return TRAINING
    if "preprocessing" in results[0]["steps_ms"]:
        return f"{TREATMENT}; {WITH_PREPROCESSING}"
    return TREATMENT


def check_new(path: Path | None) -> None:
    """Raises FileExistsError if there is such a file, FileNotFoundError without its folder."""
    if path is None:
        return
    if path.exists():
        raise FileExistsError(f"{path} exists and would be overwritten: choose another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into")


def write(
    path: Path,
    results: Sequence[dict[str, Any]],
    machine: dict[str, Any],
    command: str,
    baseline: str | None = None,
) -> None:
    """Write the JSON file; see :func:`read`."""
    content = dict(
        command=command,
        treatment=treatment(results),
        machine=machine,
        baseline=baseline,
        results=list(results),
    )
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """A JSON file of :func:`write`: ``command``, ``treatment``, ``machine``, ``results``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a file of benchmark.py --json")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    missing = [name for name in ("command", "treatment", "machine", "results") if name not in content]
    if missing or not content["results"]:
        lacking = ", ".join(missing) or "any result"
        raise ValueError(f"{path} is no file of benchmark.py --json: it lacks {lacking}")
    return content
