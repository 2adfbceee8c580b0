"""The results of zoo.py as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .zoo import SHAPE, representatives, rows

# The command is no `bash` block: it takes hours, and what runs all of those would overwrite the page.
_HEADER = """\
# Mobile-Former under every config of mmdet

`tools/swap_backbone.py` was applied to every config that mmdet {mmdet} ships, with Mobile-Former {arch}.
This page is the output of

```text
python tools/misc/swap_zoo.py --arch {arch} --out docs/swap_table.md
```

{totals}

*Works* means: the config of differences gives the rewritten config when mmengine reads it; the detector and
its optimizer are built; the losses of two small images are finite; the backward pass reaches the backbone
with finite gradients; one image is predicted with finite results, *objects* in number (SOLO and SOLOv2 keep
their score thresholds, which random weights do not reach). Weights are random and no checkpoint is read.
Nothing is trained here: the page says nothing about accuracy.

Configs that differ only in the backbone, the losses, the schedule or the data share a row. Every distinct
rewritten model was checked, not only one per row. Costs are those of one config of the row, before and
after, at {height}x{width} px; RoI heads are counted on the proposals that random weights give;
a dash was not counted. {extras}
"""


def totals(results: dict[str, Any]) -> str:
    """How many configs, models, detectors and combinations there are, and what became of them."""
    configs = Counter(entry["status"] for entry in results["configs"].values())
    models = Counter(entry["status"] for entry in results["models"].values())
    works = [results["configs"][name] for name in results["configs"] if _works(results, name)]
    detectors = {entry["detector"] for entry in works}
    heads = {(entry["detector"], entry["heads"]) for entry in works}
    full = {(entry["detector"], entry["necks"], entry["heads"]) for entry in works}
    families = {name.split("/")[0] for name in results["configs"]}
    return "\n".join(
        [
            f"- configs: {sum(configs.values())} in {len(families)} families; {_listed(configs)}",
            f"- distinct models after rewriting: {sum(models.values())}; {_listed(models)}",
            f"- detectors that work: {len(detectors)}",
            f"- combinations of detector and heads that work: {len(heads)} "
            f"({len(full)} with the necks told apart)",
        ]
    )


def table(results: dict[str, Any]) -> str:
    """The whole page."""
    grouped = rows(results)
    extras = ", ".join(
        f"{name} {version}" if version else f"{name} absent"
        for name, version in results["extras"].items()
    )
    page = [
        _HEADER.format(
            mmdet=results["mmdet"],
            arch=results["arch"],
            totals=totals(results),
            height=SHAPE[0],
            width=SHAPE[1],
            extras=f"Optional packages of mmdet: {extras}.",
        ),
        "## Works\n",
        _markdown(
            [
                *("detector", "neck", "heads", "strides", "objects", "configs", "families"),
                *("params M", "MAdds G"),
            ],
            [_working_row(results, key, names) for key, names in grouped.items()],
        ),
        "## Rewritten, but not shown to work here\n",
        "Some of a row's models may stand above; those here are the rest. *Before too*: the config that mmdet "
        "ships fails in the same way.\n",
        _markdown(
            ["detector", "neck", "heads", "models", "families", "example", "why"],
            [row for key, names in grouped.items() for row in _open_rows(results, key, names)],
        ),
        "## Refused\n",
        _markdown(
            ["detector", "heads", "configs", "families", "why"],
            [row for key, names in grouped.items() for row in _refused_rows(results, key, names)],
        ),
        "## Not looked at\n",
        _markdown(["configs", "families", "why"], _unread_rows(results)),
    ]
    return "\n".join(page)


def _works(results: dict[str, Any], name: str) -> bool:
    entry = results["configs"][name]
    model = results["models"].get(entry.get("model"), {})
    return entry["status"] == "rewritten" and model.get("status") == "works"


def _working_row(
    results: dict[str, Any], key: tuple[str, str, str], names: Sequence[str]
) -> list[str] | None:
    works = [name for name in names if _works(results, name)]
    if not works:
        return None
    strides = sorted({_numbers(results["configs"][name]["strides"]) for name in works})
    costs = results["costs"]
    counted = [name for name in representatives(results) if name in names and name in costs]
    cost = costs[counted[0]] if counted else {}
    return [
        *key,
        " or ".join(strides),
        str(min(results["models"][results["configs"][name]["model"]]["predictions"] for name in works)),
        str(len(works)),
        _families(works),
        _before_after(cost, "params", 1e6),
        _before_after(cost, "madds", 1e9),
    ]


def _open_rows(
    results: dict[str, Any], key: tuple[str, str, str], names: Sequence[str]
) -> list[list[str]]:
    #: Configs by reason and distinct model.
    reasons: dict[str, dict[str, list[str]]] = {}
    for name in names:
        entry = results["configs"][name]
        model = results["models"].get(entry.get("model"))
        if entry["status"] == "fails":
            reasons.setdefault(entry["reason"], {})[name] = [name]
        elif model is not None and model["status"] != "works":
            before = "before too: " if model["status"] == "fails before too" else ""
            found = reasons.setdefault(before + model["reason"], {})
            found.setdefault(entry["model"], []).append(name)
    rows = []
    for reason, by_model in reasons.items():
        configs = [name for group in by_model.values() for name in group]
        rows.append([*key, str(len(by_model)), _families(configs), f"`{configs[0]}`", reason])
    return rows


def _refused_rows(
    results: dict[str, Any], key: tuple[str, str, str], names: Sequence[str]
) -> list[list[str]]:
    reasons: dict[str, list[str]] = {}
    for name in names:
        entry = results["configs"][name]
        if entry["status"] == "refused":
            reasons.setdefault(entry["reason"], []).append(name)
    return [
        [key[0], key[2], str(len(found)), _families(found), reason]
        for reason, found in reasons.items()
    ]


def _unread_rows(results: dict[str, Any]) -> list[list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, entry in results["configs"].items():
        if entry["status"] == "no model":
            reasons.setdefault("it holds settings to include, and no model", []).append(name)
        elif entry["status"] == "unreadable":
            reason = "mmdet's config cannot be read: " + entry["reason"]
            reasons.setdefault(reason, []).append(name)
    return [[str(len(names)), _families(names), reason] for reason, names in reasons.items()]


def _before_after(cost: dict[str, Any], key: str, unit: float) -> str:
    values = [cost.get(when, {}).get(key) for when in ("before", "after")]
    return " → ".join("-" if value is None else f"{value / unit:.1f}" for value in values)


def _families(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.split("/")[0] for name in names}))


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str] | None]) -> str:
    body = [line for line in lines if line is not None]
    if not body:
        return "None.\n"
    rule = ["--"] * len(head)
    clean = ([cell.replace("|", "\\|") for cell in line] for line in body)
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *clean))
