"""The ledger in the docs, made from the JSON files of the benchmark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import report

#: The page and the folder of its results, from the root of a checkout.
PAGE, RESULTS = "docs/speed.md", "docs/speed"
_BLOCK = re.compile(r"(<!-- results -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def ledger(files: Sequence[Path]) -> str:
    """The results of all files, newest version first, as Markdown.

    Raises:
        FileNotFoundError, ValueError: If a file is none of ``benchmark.py --json``.
    """
    contents = [(file, report.read(file)) for file in files]
    contents.sort(key=lambda item: item[0].name)
    contents.sort(key=lambda item: _version(item[1]), reverse=True)
    return "".join(f"\n{_section(file, content)}" for file, content in contents)


def _version(content: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", content["machine"]["package"]))


def _section(file: Path, content: dict[str, Any]) -> str:
    results = content["results"]
    first = results[0]
    lines = [f"### {content['machine']['package']}: {title(file)}", ""]
    lines += ["```text", content["command"], "```", ""]
    sentence = content["treatment"]
    lines += [f"Timed: {sentence}; batch {first['batch']}, {first['runs']} interleaved runs."]
    lines += [report.machine_line(results, content["machine"]), "", report.table(results), ""]
    if better := report.better_engine(results, content.get("baseline")):
        lines += [*(f"- {line}" for line in better), ""]
    if growth := growth_table(results):
        lines += ["How the time grows with the image, median ms and in brackets the GMAdds:", ""]
        lines += [growth, ""]
    for result in results:
        if result["parts_ms"]:
            size = report.size_of(result)
            lines += [f"Parts of `{result['config']}`, {size}, eager:", "", report.parts_table(result), ""]
    return "\n".join(lines)


def title(file: Path) -> str:
    """What a file is about, by its name: ``0.2.0-at_320_px.json`` is 'at 320 px'."""
    return file.stem.partition("-")[2].replace("_", " ") or file.stem


def growth_table(results: Sequence[dict[str, Any]]) -> str:
    """A row for every config and engine, a column for every size; '' if there is one size."""
    sizes = list(dict.fromkeys(report.size_of(result) for result in results))
    if len(sizes) < 2:
        return ""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for result in results:
        row = found.setdefault((result["config"], result["engine"]), {})
        row[report.size_of(result)] = f"{result['median_ms']:.1f} ({result['madds_g']:.1f})"
    rows = [
        [f"`{config}`", engine, *(row.get(size, "") for size in sizes)]
        for (config, engine), row in found.items()
    ]
    return report.markdown(["config", "engine", *sizes], rows)


def page(root: Path) -> str:
    """The page with the results of the checkout's JSON files put in.

    Raises:
        FileNotFoundError: If ``root`` is no checkout.
        ValueError: If the page lacks its place for results, or a file is none of the benchmark.
    """
    path = root / PAGE
    if not path.is_file():
        raise FileNotFoundError(f"{root} is no checkout of this repository: it has no {PAGE}")
    text = path.read_text(encoding="utf-8")
    if len(_BLOCK.findall(text)) != 1:
        raise ValueError(f"{PAGE} needs <!-- results --> and <!-- end --> once, each on its own line")
    files = sorted((root / RESULTS).glob("*.json"))
    return _BLOCK.sub(lambda match: match[1] + ledger(files) + match[3], text)
