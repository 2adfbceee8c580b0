"""A stand-in for `python` that starts in no time: what every command of the docs imports is imported once.

`warm_python.py --serve SOCKET` imports torch and mmdet, but nothing of this package, and forks for
every command; `warm_python.py SOCKET PYTHON ARGUMENTS` hands its arguments, folder and streams over
and ends with the command's exit code. What a launcher tells its ranks by the environment, and
PYTHONPATH, is handed over, too; a command whose environment differs in more runs in a PYTHON of its own.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any

_OWN = b"a Python of its own"
#: What a shell and a venv's activation change.
_SHELL = ("PWD", "OLDPWD", "SHLVL", "_", "PATH", "PS1", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT")
#: What dist_train.sh and torchrun set for ranks, by beginnings of names.
_RANK = ("RANK", "LOCAL_", "GROUP_", "ROLE_", "WORLD_SIZE", "MASTER_", "TORCH", "PYTHONPATH")


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in _SHELL}


def _apart_from_ranks(environment: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if not key.startswith(_RANK)}


def serve(address: str) -> dict[str, Any]:
    """Import, then fork for every command; the fork returns with it, the server never."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    environment = _environment()
    for name in ("matplotlib.pyplot", "pycocotools.cocoeval", "torch", "mmdet.apis", "mmdet.models"):
        try:
            importlib.import_module(name)
        except ImportError:  # an environment without it
            continue
    gc.collect()
    gc.freeze()  # the commands' collections need not go through what was imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            message, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
            command: dict[str, Any] = json.loads(message)
            theirs = command["environment"]
            if _apart_from_ranks(theirs) != _apart_from_ranks(environment):
                answer = _OWN
            elif child := os.fork():
                answer = str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode()
            else:
                connection.close()
                for target, stream in enumerate(streams):
                    os.dup2(stream, target)
                    os.close(stream)
                os.environ.update(theirs)
                paths = theirs.get("PYTHONPATH", "").split(os.pathsep)
                sys.path[1:1] = [path for path in paths if path and path not in sys.path]
                return command
            connection.sendall(answer)
            os._exit(0)
        connection.close()


def run(arguments: list[str], folder: str) -> None:
    """What `python ARGUMENTS` does in a folder, in this process."""
    os.chdir(folder)
    if arguments[0] == "-m":
        sys.path[0] = folder
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(arguments[0]))
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def hand_over(address: str, python: str, arguments: list[str]) -> None:
    """Have the server run a command, or run it."""
    answer = _OWN
    if arguments[:1] == ["-u"]:  # torchrun's; the streams are files here
        arguments = arguments[1:]
    # Of Python's own options the server knows -m alone.
    if arguments and (arguments[0] == "-m" or not arguments[0].startswith("-")):
        command = dict(arguments=arguments, folder=os.getcwd(), environment=_environment())
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            socket.send_fds(connection, [json.dumps(command).encode()], [0, 1, 2])
            answer = connection.recv(64)
    if answer == _OWN:
        os.execv(python, [python, *arguments])
    code = int(answer)
    # Killed by a signal: the exit code that a shell would give it.
    raise SystemExit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        asked = serve(sys.argv[2])
        run(asked["arguments"], asked["folder"])
    else:
        hand_over(sys.argv[1], sys.argv[2], sys.argv[3:])
