"""`python -m mmdet_mobileformer COMMAND ...`: the package's own commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

#: Command to (module with `add_arguments(parser)` and `run(args) -> exit code`, what it does).
COMMANDS = {
    "doctor": (
        "mmdet_mobileformer.data.doctor.command",
        "examine the installed packages and the data before training",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m mmdet_mobileformer")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, help_) in COMMANDS.items():
        import_module(module).add_arguments(
            commands.add_parser(name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.")
        )
    args = parser.parse_args(argv)
    return int(import_module(COMMANDS[args.command][0]).run(args))


if __name__ == "__main__":
    raise SystemExit(main())
