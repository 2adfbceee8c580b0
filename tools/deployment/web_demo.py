#!/usr/bin/env python
"""Show an exported detector in a browser: tools/deployment/web_demo.py [MODEL.onnx]

Writes a folder of plain files and serves it. The pictures never leave the browser: it runs the model.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", nargs="?", type=Path, help="of tools/deployment/export.py (default: the shipped one)")
    add("--out", type=Path, help="new folder for the files, kept (default: a temporary one)")
    add("--no-serve", action="store_true", help="write the folder only; needs --out")
    add("--host", default="127.0.0.1", help="address to listen at (%(default)s: this machine only)")
    add("--port", type=int, default=8000, help="0 takes a free one (%(default)s)")
    add(
        "--onnxruntime-web",
        metavar="FILE.tgz",
        type=Path,
        help="its npm package, for machines without network",
    )
    args = parser.parse_args(argv)
    if args.no_serve and args.out is None:
        parser.error("--no-serve needs --out FOLDER")
    return args


def main() -> None:
    """Write the folder and serve it until Ctrl-C."""
    args = parse_args()
    # Imported after parsing, so that --help and a mistyped flag answer at once.
    from mmdet_mobileformer.deploy.web.server import make_server
    from mmdet_mobileformer.deploy.web.site import write_site

    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder) / "page"
        try:
            about = write_site(out, args.model, args.onnxruntime_web)
            classes = about["classes"]
            count = len(classes) if isinstance(classes, list) else 0
            print(f"{about['name']}: {about['config']}, {count} classes, {about['engine']}")
            if args.no_serve:
                print(f"written: {out}")
                return
            server = make_server(out, args.host, args.port)
        except (ImportError, OSError, ValueError) as error:
            raise SystemExit(f"web_demo.py: {error}") from None
        host, port = server.server_address[:2]
        print(f"open http://{host!s}:{port}/ in a browser; Ctrl-C ends it", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
        finally:
            server.server_close()


if __name__ == "__main__":
    main()
