"""`python -m mmdet_mobileformer doctor [CONFIG] [--data-root DIR]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .installed import check_stack, describe_import_error
from .report import Finding, Report

if TYPE_CHECKING:
    from .sets import DataSet

EPILOG = """exit code: 0 training can start, 1 it cannot (with --strict also for warnings), 2 the
doctor could not run (no such file, a config that cannot be read, a wrong flag)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.epilog = EPILOG
    parser.add_argument(
        "config", nargs="?", help="config file; without one only the folder is examined"
    )
    parser.add_argument("--data-root", help="folder with the data, as for tools/train.py")
    parser.add_argument("--classes", help="as for tools/train.py: 'auto', or names")
    parser.add_argument(
        "--cfg-options", nargs="+", metavar="KEY=VALUE", help="as for tools/train.py"
    )
    parser.add_argument(
        "--quick", action="store_true", help="open a sample of the pictures, as tools/train.py does"
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-stack", action="store_true", help="leave the installed packages out")


def run(args: argparse.Namespace) -> int:
    """Examine and print; returns the exit code."""
    report = Report()
    if not args.no_stack:
        report.stack, findings = check_stack()
        report.add(findings)
    try:
        if args.config or args.data_root:
            # Imported here: where OpenCV does not import, the part above says so.
            from .examine import examine

            cfg, sets, notes = _sets(args)
            data = examine(sets, cfg, args.quick, None if args.json else _Progress())
            report.sets, report.quick = data.sets, data.quick
            report.add([*data.findings, *notes])
    except (ValueError, OSError) as error:
        if report.findings:
            print(report.json(args.strict) if args.json else report.text(args.strict))
        print(f"doctor: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        report.add([describe_import_error("what reads the data", error)])
    print(report.json(args.strict) if args.json else report.text(args.strict))
    return report.exit_code(args.strict)


def _sets(args: argparse.Namespace) -> tuple[Any, list[DataSet], list[Any]]:
    """The data sets of the config or of the folder."""
    from ..classes import set_classes
    from ..layouts import find_layout, use_data_root
    from ..redirect import redirect_data_root
    from .sets import sets_of_config, sets_of_layout

    say = _quiet if args.json else print
    if not args.config:
        return None, sets_of_layout(find_layout(args.data_root)), []
    from mmengine.config import Config

    if not Path(args.config).is_file():
        raise FileNotFoundError(
            f"config {args.config} does not exist: give the path of a config file"
        )
    try:
        cfg = Config.fromfile(args.config)
        cfg.merge_from_dict(_options(args.cfg_options))
    except Exception as error:  # a config is Python: anything may be raised
        lines = str(error).strip().splitlines() or ["no message"]
        raise ValueError(
            f"config {args.config} cannot be read: {type(error).__name__}: {lines[0]}"
        ) from error
    layout = None
    if args.data_root:
        try:
            layout = use_data_root(cfg, args.data_root, say=say, make_validation=False)
        except FileNotFoundError:
            if not Path(args.data_root).expanduser().is_dir():
                raise
            redirect_data_root(cfg, args.data_root)  # what is missing becomes a finding
    if args.classes:
        set_classes(cfg, args.classes)
    if layout is None or "val" in layout.splits:
        return cfg, *sets_of_config(cfg)
    sets, notes = sets_of_config(cfg, ("train",))
    message = "there is no validation split: tools/train.py will take a tenth of the pictures"
    return cfg, sets, [*notes, Finding("note", "no-validation", sets[0].name, message)]


def _options(pairs: list[str] | None) -> dict[str, Any]:
    """KEY=VALUE as mmengine's DictAction reads them."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="+", action=DictAction)
    return dict(parser.parse_args(["--options", *pairs]).options) if pairs else {}


class _Progress:
    """A line on stderr every few seconds, for sets that take minutes."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self.last = time.monotonic()

    def __call__(self, name: str, done: int, of: int) -> None:
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            print(f"{name}: {done:,} of {of:,} pictures", file=sys.stderr)


def _quiet(_: str) -> None:
    """In JSON mode nothing else goes to stdout."""
