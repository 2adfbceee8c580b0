"""Write what follows from the table of models: README tables, metafile.yml, model-index.yml.

    python tools/misc/make_tables.py            write the files
    python tools/misc/make_tables.py --check    only fail if one of them differs
    python tools/misc/make_tables.py --count    count all models and say where the table is wrong

The table is mmdet_mobileformer/models.py, the backbones' is archs.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    what.add_argument("--count", action="store_true", help="count all models; fail on a difference")
    parser.add_argument("--root", default=str(ROOT), help="the checkout (default: this one)")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    from mmdet_mobileformer.analysis.tables import generated_files, recount

    if args.count:
        if wrong := recount():
            raise SystemExit("\n".join(wrong))
        print("models.py has the counted parameters and MAdds of every config")
        return
    try:
        files = generated_files(args.root)
    except (OSError, ValueError) as error:
        raise SystemExit(f"make_tables: {error}") from None
    stale = {file: text for file, text in files.items() if _read(file) != text}
    if args.check and stale:
        names = ", ".join(str(file.relative_to(args.root)) for file in stale)
        raise SystemExit(f"make_tables: {names} differ from the table: run tools/misc/make_tables.py")
    for file, text in stale.items():
        file.write_text(text, encoding="utf-8")
        print(f"written: {file.relative_to(args.root)}")
    if not stale:
        print("nothing to do: all files are those of the table")


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


if __name__ == "__main__":
    main()
