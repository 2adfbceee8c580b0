"""`python -m mmdet_mobileformer.runtime`: the command mobileformer-detect."""

from __future__ import annotations

from .command import main

if __name__ == "__main__":
    raise SystemExit(main())
