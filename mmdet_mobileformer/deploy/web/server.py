"""A server for the page's folder, with the headers that onnxruntime-web's threads need."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: Browsers give a page shared memory, and with it threads, only if it is isolated from others.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Some systems' own tables lack these, and browsers then refuse the files.
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
        ".onnx": "application/octet-stream",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
        """Say nothing: the page says what is wrong."""


def make_server(folder: str | Path, host: str = "127.0.0.1", port: int = 8000) -> ThreadingHTTPServer:
    """A server of a folder's files; ``serve_forever`` starts it.

    Args:
        folder: As :func:`mmdet_mobileformer.deploy.web.site.write_site` wrote it.
        host: The address to listen at; ``0.0.0.0`` for all of the machine's.
        port: 0 takes a free one; see the server's ``server_address``.

    Raises:
        ValueError: If nothing can listen there.
    """
    try:
        return ThreadingHTTPServer((host, port), partial(_Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"no server can listen at {host}:{port} ({error}): choose another --port, 0 for a free one"
        ) from error
