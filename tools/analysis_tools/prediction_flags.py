"""What confusion_matrix.py and error_analysis.py share: flags, and the data set that they name. No program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mmengine.config import DictAction


def prediction_parser(doc: str | None, predictions: str, out: str) -> argparse.ArgumentParser:
    """A parser of CONFIG, PREDICTIONS and the flags of both programs.

    Args:
        doc: The program's docstring.
        predictions, out: Help of the file of predictions and of --out.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("config", help="config file")
    add("predictions", help=predictions)
    add("--out", type=Path, required=True, help=out)
    add("--data-root", help="folder to read the data set from, as in tools/test.py")
    add("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help="override settings")
    return parser


def test_set(args: argparse.Namespace) -> Any:
    """The data set that the predictions are of; refuses an --out that exists.

    Raises:
        FileExistsError: As mmdet_mobileformer.analysis.outputs.check_new.
    """
    import mmdet_mobileformer  # noqa: F401  (registers the modules)
    from mmdet_mobileformer.analysis.browse import data_set
    from mmdet_mobileformer.analysis.outputs import check_new
    from mmdet_mobileformer.train.build import read_config

    check_new(args.out, "--out")
    return data_set(read_config(args.config, args.cfg_options), "test", args.data_root)
