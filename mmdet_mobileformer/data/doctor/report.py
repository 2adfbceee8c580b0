"""What the doctor found: as text, as JSON, and as an exit code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

#: From worst to harmless. error: training cannot start, or would learn something wrong. warning:
#: training runs, but a picture or box is left out or read in another way than it looks. note: a
#: fact to know.
LEVELS = ("error", "warning", "note")
#: Checks whose boxes mmdet's CocoDataset leaves out without a word.
BOXES_LEFT_OUT = (
    "image-id-unknown",
    "category-id-unknown",
    "boxes-not-finite",
    "boxes-negative",
    "boxes-empty",
    "boxes-outside",
    "area-not-positive",
)
#: Names shown per finding in the text; the JSON holds up to MOST_NAMES.
SHOWN = 5
MOST_NAMES = 10_000


@dataclass(frozen=True)
class Finding:
    """One kind of defect in one place.

    Attributes:
        level: One of :data:`LEVELS`.
        check: A stable name for programs, such as ``boxes-outside``.
        where: The data set or part of the stack.
        message: What was found, a clause without a full stop.
        advice: What to do about it; empty for a note that asks nothing.
        count: How many files, boxes or ids.
        names: Which: files, with annotation ids where it is about boxes.
    """

    level: str
    check: str
    where: str
    message: str
    advice: str = ""
    count: int = 1
    names: Sequence[str] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.names[:SHOWN])
        more = f" and {self.count - SHOWN:,} more" if shown and self.count > SHOWN else ""
        return self.message + (f": {shown}{more}" if shown else "")


@dataclass
class Summary:
    """Size of one data set."""

    name: str
    ann_file: str
    folder: str
    images: int
    boxes: int
    classes: list[str]


@dataclass
class Report:
    """Everything found in one examination."""

    findings: list[Finding] = field(default_factory=list)
    sets: list[Summary] = field(default_factory=list)
    stack: dict[str, str | None] = field(default_factory=dict)
    #: Whether only the quick part ran, which looks at a sample of the picture files.
    quick: bool = False

    def add(self, findings: Iterable[Finding]) -> None:
        self.findings.extend(findings)

    def of(self, level: str) -> list[Finding]:
        """The findings of one level."""
        return [finding for finding in self.findings if finding.level == level]

    def blocking(self, strict: bool = False) -> list[Finding]:
        """What stands against training: errors, and with `strict` warnings too."""
        return self.of("error") + (self.of("warning") if strict else [])

    @property
    def boxes_left_out(self) -> int:
        """Boxes that training will not see, because mmdet leaves them out on reading the file."""
        train = {summary.name for summary in self.sets if summary.name.startswith("train")}
        found = (f for f in self.of("warning") if f.check in BOXES_LEFT_OUT and f.where in train)
        return sum(finding.count for finding in found)

    def exit_code(self, strict: bool = False) -> int:
        """0: training can start; 1: it cannot."""
        return 1 if self.blocking(strict) else 0

    def text(self, strict: bool = False) -> str:
        """The report for people; it ends with what to do."""
        lines: list[str] = []
        if self.stack:
            versions = (f"{name} {version or 'absent'}" for name, version in self.stack.items())
            lines += ["Stack: " + ", ".join(versions)]
            lines += self._lines("stack")
        for summary in self.sets:
            lines += ["", f"Data set {summary.name}: {summary.ann_file}"]
            lines += [
                f"  {summary.images:,} images in {summary.folder}, {summary.boxes:,} boxes, "
                f"{len(summary.classes)} classes"
            ]
            lines += self._lines(summary.name)
        known = {"stack", *(summary.name for summary in self.sets)}
        for where in dict.fromkeys(f.where for f in self.findings if f.where not in known):
            lines += ["", f"{where}:", *self._lines(where)]
        return "\n".join([*lines, "", *self._conclusion(strict)]).lstrip("\n")

    def _lines(self, where: str) -> list[str]:
        found = [f for level in LEVELS for f in self.of(level) if f.where == where]
        return [f"  {finding.level:<8}{finding}" for finding in found] or ["  nothing to report"]

    def _conclusion(self, strict: bool) -> list[str]:
        found = [(level, len(self.of(level))) for level in LEVELS]
        counts = [f"{count} {level}{'s' * (count != 1)}" for level, count in found]
        verdict = "training cannot start" if self.exit_code(strict) else "training can start"
        lines = [f"{', '.join(counts)}: {verdict}."]
        advice = dict.fromkeys(
            finding.advice for level in LEVELS for finding in self.of(level) if finding.advice
        )
        if advice:
            lines += ["What to do:", *(f"  {n}. {text}" for n, text in enumerate(advice, 1))]
        else:
            lines += ["Nothing to do."]
        if self.quick and self.sets:
            lines += ["This was the quick part: without --quick every picture is decoded."]
        return lines

    def as_dict(self, strict: bool = False) -> dict[str, Any]:
        """The report for programs, ready for json.dumps."""
        findings = []
        for finding in sorted(self.findings, key=lambda f: LEVELS.index(f.level)):
            entry = asdict(finding)
            entry["names"] = list(finding.names[:MOST_NAMES])
            findings.append(entry)
        return {
            "exit_code": self.exit_code(strict),
            "counts": {level: len(self.of(level)) for level in LEVELS},
            "quick": self.quick,
            "stack": self.stack,
            "sets": [asdict(summary) for summary in self.sets],
            "findings": findings,
        }

    def json(self, strict: bool = False) -> str:
        """:meth:`as_dict` as text."""
        return json.dumps(self.as_dict(strict), indent=1, ensure_ascii=False)
