"""The set-up script's checks: what is missing is named in one sentence, before anything is installed.

A machine that lacks something is imitated from outside: by PATH, by PYTHON, and by a `sitecustomize` that the interpreter imports at
its start. The script itself knows nothing of being tested.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Run = Callable[..., 'subprocess.CompletedProcess[str]']

NO_LIBRARY = """
import ctypes
class CDLL(ctypes.CDLL):
    def __init__(self, name, *args, **kwargs):
        if name == {name!r}:
            raise OSError(name + ': cannot open shared object file')
        super().__init__(name, *args, **kwargs)
ctypes.CDLL = CDLL
"""
NO_HEADERS = """
import sysconfig
sysconfig.get_path = lambda *args, **kwargs: '/nonexistent'
"""
NO_ENSUREPIP = """
import sys
sys.modules['ensurepip'] = None
"""
PYTHON_38 = """
import sys
sys.version_info = (3, 8, 10, 'final', 0)
"""


@pytest.fixture()
def checkout(tmp_path: Path) -> Path:
    """A copy of what set-up reads, without an environment, at a path with a blank."""
    checkout = tmp_path / 'a checkout'
    (checkout / 'tools').mkdir(parents=True)
    (checkout / 'mmdet_mobileformer').mkdir()
    for name in (
        'tools/setup_env.sh',
        'setup.py',
        'pyproject.toml',
        'mmdet_mobileformer/version.py',
    ):
        shutil.copy(ROOT / name, checkout / name)
    return checkout


@pytest.fixture()
def run(checkout: Path, tmp_path: Path) -> Run:
    """Runs the script in the copy; `site` is code that the interpreter executes at its start."""

    def run(*args: str, site: str = '', **env: str) -> subprocess.CompletedProcess[str]:
        if site:
            (tmp_path / 'site').mkdir(exist_ok=True)
            (tmp_path / 'site' / 'sitecustomize.py').write_text(site)
            env['PYTHONPATH'] = str(tmp_path / 'site')
        # The interpreter below this virtual environment: what a user would name.
        python = os.path.realpath(sys.executable)
        return subprocess.run(
            [shutil.which('bash') or 'bash', str(checkout / 'tools' / 'setup_env.sh'), *args],
            env={**os.environ, 'PYTHON': python, 'STACK': '', **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def path_without(tmp_path: Path, *missing: str) -> str:
    """A directory of links to the programs that the script calls, but for `missing`."""
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name in ('bash', 'dirname', 'flock', 'sha256sum', 'cut', 'cat', 'g++', 'python3.11'):
        found = shutil.which(name)
        if found and name not in missing:
            (programs / name).symlink_to(found)
    return str(programs)


def sentence(result: subprocess.CompletedProcess[str], checkout: Path) -> str:
    """The one line of a run that stopped; asserts that it is one and that nothing was made."""
    assert result.returncode == 1, result
    assert not list(checkout.glob('.venv*'))
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith('set-up stopped: ')
    return lines[0]


@pytest.mark.parametrize(
    ('site', 'package'),
    [
        (NO_LIBRARY.format(name='libGL.so.1'), 'libgl1'),
        (NO_LIBRARY.format(name='libgthread-2.0.so.0'), 'libglib2.0-0'),
        (NO_HEADERS, 'python3-dev'),
        (NO_ENSUREPIP, 'python3-venv'),
    ],
)
def test_names_the_missing_package(run: Run, checkout: Path, site: str, package: str) -> None:
    # What this machine really lacks (nothing, as a rule) is in both lists.
    lacking = set(run('--missing-packages').stdout.split())
    line = sentence(run(site=site), checkout)
    assert set(line.split('apt-get install -y ')[1].split()) == lacking | {package}


def test_names_all_missing_packages_at_once(run: Run, checkout: Path, tmp_path: Path) -> None:
    site = NO_LIBRARY.format(name='libGL.so.1') + NO_HEADERS
    line = sentence(run(site=site, PATH=path_without(tmp_path, 'g++'), CXX=''), checkout)
    assert line.endswith('apt-get install -y g++ python3-dev libgl1')


def test_missing_packages_are_printed_for_ci(run: Run, tmp_path: Path) -> None:
    result = run('--missing-packages', site=NO_HEADERS, PATH=path_without(tmp_path, 'g++'), CXX='')
    assert (result.returncode, result.stdout.split()[:2]) == (0, ['g++', 'python3-dev'])


def test_without_any_python(run: Run, checkout: Path, tmp_path: Path) -> None:
    path = path_without(tmp_path, 'python3.11')
    line = sentence(run(PYTHON='', PATH=path), checkout)
    assert 'apt-get install -y python3 python3-dev python3-venv' in line


def test_wrong_python(run: Run, checkout: Path) -> None:
    line = sentence(run(site=PYTHON_38), checkout)
    assert 'is Python 3.8.10' in line
    assert 'PYTHON=/path/to/python3.11' in line


def test_python_that_does_not_run(run: Run, checkout: Path) -> None:
    line = sentence(run(PYTHON='/nonexistent/python'), checkout)
    assert 'PYTHON=/nonexistent/python does not run' in line


def test_unknown_argument(run: Run, checkout: Path) -> None:
    assert 'unknown argument --verbose' in sentence(run('--verbose'), checkout)


def test_unknown_stack(run: Run, checkout: Path) -> None:
    line = sentence(run(STACK='openmmlab'), checkout)
    assert 'STACK=openmmlab is unknown: choose stock' in line and 'or onedl' in line


def test_python_of_venv_is_gone(run: Run, checkout: Path) -> None:
    (checkout / '.venv' / 'bin').mkdir(parents=True)
    (checkout / '.venv' / 'bin' / 'python').symlink_to('/nonexistent/python3.11')
    result = run()
    assert result.returncode == 1
    assert 'delete that folder and run again' in result.stderr
    assert (checkout / '.venv' / 'bin' / 'python').is_symlink()  # left to its owner


NO_INDEX = dict(
    PIP_CONFIG_FILE=os.devnull,
    PIP_INDEX_URL='http://127.0.0.1:9/simple',  # the discard port: nothing answers
    PIP_EXTRA_INDEX_URL='',
    PIP_FIND_LINKS='',
)


@pytest.mark.slow  # makes a virtual environment
@pytest.mark.parametrize(
    ('stack', 'folder', 'pins'),
    [
        ('', '.venv', ('mmcv==2.1.0', 'mmdet==3.3.0', 'mmengine==0.10.7')),
        (
            'onedl',
            '.venv-onedl',
            ('onedl-mmcv==2.3.6', 'onedl-mmdetection==3.5.1', 'onedl-mmengine==0.10.12'),
        ),
    ],
)
def test_no_network(
    run: Run, checkout: Path, stack: str, folder: str, pins: tuple[str, ...]
) -> None:
    result = run(STACK=stack, **NO_INDEX)
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith('set-up stopped: ')]
    assert len(lines) == 1 and result.stderr.splitlines()[-1] == lines[0]
    assert 'pip reaches no package index' in lines[0]
    assert set(pins) <= set(lines[0].split())
    assert [path.name for path in checkout.glob('.venv*')] == [folder]
    assert (checkout / folder / '.gitignore').read_text() == '*\n'
    assert not (checkout / folder / 'setup.stamp').exists()


def test_parallel_runs_wait_for_each_other(checkout: Path) -> None:
    script = checkout / 'tools' / 'setup_env.sh'
    with script.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            ['bash', str(script)],
            env={**os.environ, 'PYTHON': '/nonexistent/python', 'STACK': ''},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert 'another set-up runs in this checkout' in process.stdout.readline()
        assert process.poll() is None
    assert 'does not run' in process.communicate(timeout=60)[1]


def test_every_part_of_ci_is_a_target() -> None:
    parts = subprocess.run(
        ['make', '-pn', 'help'], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split('PARTS := ')[1].splitlines()[0].split()
    tests = {'test', 'test-slow', 'test-distributed', 'test-onedl'}
    assert {'setup', 'lint', 'typecheck', 'demo-short', *tests} <= set(parts)
    for part in parts:
        subprocess.run(['make', '-n', part], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.parametrize(
    ('arguments', 'folder'),
    [
        (['test'], '.venv'),
        (['test', 'STACK=onedl'], '.venv-onedl'),
        (['test-onedl'], '.venv-onedl'),
        (['test-onedl', 'STACK=stock'], '.venv-onedl'),
    ],
)
def test_the_stack_chooses_the_environment(arguments: list[str], folder: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != 'STACK' and not k.startswith('MAKE')}
    dry = subprocess.run(
        ['make', '-n', *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    (command,) = [line for line in dry.stdout.splitlines() if ' -m pytest ' in line]
    assert command.startswith(f'{folder}/bin/python ')
    for word in command.split():
        assert not word.startswith('tests/') or (ROOT / word).is_file()

def test_clean_keeps_what_took_long(tmp_path: Path) -> None:
    shutil.copy(ROOT / 'Makefile', tmp_path)
    for kept in ('work_dirs/run', '.venv/bin', 'data/coco', 'tools/__pycache__', 'build'):
        (tmp_path / kept).mkdir(parents=True)
    for folder in ('mmdet_mobileformer', 'tests', 'configs'):
        (tmp_path / folder).mkdir()
    subprocess.run(['make', 'clean'], cwd=tmp_path, capture_output=True, check=True)
    for kept in ('work_dirs/run', '.venv/bin', 'data/coco'):
        assert (tmp_path / kept).is_dir()
    assert not (tmp_path / 'tools' / '__pycache__').exists()
    assert not (tmp_path / 'build').exists()


PARTS = """
setup: ; @echo ready
good: ; @echo '==== 3 passed, 1 skipped in 2.50s ===='
bad: ; @echo '1 failed, 2 passed in 61.00s (0:01:01)'; exit 1
"""


@pytest.mark.parametrize(
    ('parts', 'code', 'last'),
    [
        (['setup', 'good'], 0, ['==== 3 passed, 1 skipped in 2.50s ====']),
        (
            ['setup', 'bad', 'good'],
            1,
            [
                'failed: bad',
                '1 failed, 2 passed in 61.00s (0:01:01)',
                '==== 3 passed, 1 skipped in 2.50s ====',
            ],
        ),
    ],
)
def test_run_parts(tmp_path: Path, parts: list[str], code: int, last: list[str]) -> None:
    (tmp_path / 'tools').mkdir()
    shutil.copy(ROOT / 'tools' / 'run_parts.sh', tmp_path / 'tools')
    (tmp_path / 'Makefile').write_text(PARTS)
    env = {name: value for name, value in os.environ.items() if not name.startswith('MAKE')}
    env.pop('MAX_MINUTES', None)
    result = subprocess.run(
        [str(tmp_path / 'tools' / 'run_parts.sh'), *parts],
        env=env,
        capture_output=True,
        text=True,
    )
    assert result.returncode == code
    lines = result.stdout.splitlines()
    assert lines[-len(last) :] == last
    minutes = lines[lines.index('===== minutes') + 1 :][: len(parts)]
    assert [line.split()[0] for line in minutes] == parts
    assert ['FAILED' in line for line in minutes] == [part == 'bad' for part in parts]
