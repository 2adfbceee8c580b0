"""What tools/swap_backbone.py does: write the swapped config, see that it works, say what it costs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config

from ..analysis.flops import Count, check_shape
from ..archs import get_arch
from ..pairing import check_pairing
from .check import CheckError, compare, count_config
from .config_file import check_out, config_text, read_base, same_config
from .rewrite import rewrite


def swap_file(
    base: str,
    arch: str,
    out: Path,
    neck: str = "keep",
    pretrained: str | None = None,
    shape: tuple[int, int] | None = (800, 1333),
    check: bool = True,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Write the config ``base`` on Mobile-Former to ``out``, as differences from ``base``.

    Before ``out`` appears, the differences are read back, and the detector is built, trained and
    run once on small images. What cannot be checked here (an operator without a CPU version, or a
    failure that the old backbone has too) is written nevertheless, and said.

    Args:
        base: The path of a config, or ``mmdet::FAMILY/NAME.py``.
        arch: The Mobile-Former.
        out: The file to write.
        neck: As in :func:`swap_backbone`.
        pretrained: As in :func:`swap_backbone`.
        shape: (H, W) in pixels at which the cost before and after is counted; None counts nothing.
        check: Whether to build and run it.
        overwrite: Whether ``out`` may exist.
        say: Takes one line each.

    Raises:
        SwapRefusedError: If this detector cannot do without its backbone.
        CheckError: If the swapped detector does not work; nothing is written.
        ValueError: If an argument or the config is wrong.
        OSError: If a file does not exist, or ``out`` does.
    """
    get_arch(arch)
    if shape is not None:
        check_shape(shape)
    out = out.expanduser()
    check_out(out, base, overwrite)
    base_cfg = read_base(base)
    swap = rewrite(base_cfg, arch, neck, pretrained)
    for change in swap.changes:
        say(f"  {change}")
    out.parent.mkdir(parents=True, exist_ok=True)
    title = f"{base} on Mobile-Former {arch}, by tools/swap_backbone.py. Changed:"
    # In the same folder, since `_base_` may be relative to it.
    partial = out.with_name(f".{out.stem}-{os.getpid()}.py")
    try:
        text = config_text(base, out, base_cfg.to_dict(), swap.config, [title, *swap.changes])
        partial.write_text(text)
        cfg = _read_back(partial)
        if not same_config(cfg.to_dict(), swap.config):
            raise AssertionError(f"the differences written for {out} do not give the swapped config")
        check_pairing(cfg)
        if check:
            say(_checked(base_cfg, cfg))
        check_out(out, base, overwrite)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    say(f"written: {out}")
    if shape is not None:
        for line in cost_table(base_cfg, cfg, shape):
            say(line)


def _read_back(file: Path) -> Config:
    try:
        return Config.fromfile(str(file))
    except ImportError as error:
        raise CheckError(f"the new config asks for a package that is missing: {error}") from error


def _checked(base: Config, cfg: Config) -> str:
    verdict = compare(base, cfg)
    if verdict.status == "works":
        return f"checked: {verdict.check}"
    if verdict.status == "fails":
        raise CheckError(f"{verdict.reason} (nothing was written; --no-check writes it)")
    also = ", with the old backbone as well" if verdict.status == "fails before too" else ""
    return f"not checked: {verdict.reason}{also}"


def cost_table(base: Config, cfg: Config, shape: tuple[int, int]) -> list[str]:
    """Lines with parameters and multiply-adds of model and backbone, before and after."""
    counts: list[Count | None] = []
    lines = []
    for config in (base, cfg):
        try:
            counts.append(count_config(config, shape))
        except CheckError as error:
            counts.append(None)
            lines.append(f"not counted: {error}")
    lines.append(f"{'':<28}{'before':>12}{'after':>12}")
    sizes = [f"{c.shape[0]}x{c.shape[1]}" if c else "-" for c in counts]
    lines.append(f"{'at':<28}{sizes[0]:>12}{sizes[1]:>12}")
    for label, part, unit in (
        ("params M", "", 1e6),
        ("  of these the backbone", "backbone", 1e6),
        ("MAdds G", "", 1e9),
        ("  of these the backbone", "backbone", 1e9),
    ):
        values = [
            "-" if c is None else f"{_of(c.params if unit == 1e6 else c.madds, part) / unit:.2f}"
            for c in counts
        ]
        lines.append(f"{label:<28}{values[0]:>12}{values[1]:>12}")
    return lines


def _of(amounts: dict[str, int], part: str) -> int:
    """The amount of the whole, or of the backbone, however the model is wrapped."""
    if not part:
        return amounts[""]
    names = [name for name in amounts if name == part or name.endswith(f".{part}")]
    return amounts[min(names, key=len)] if names else 0
