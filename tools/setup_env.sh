#!/usr/bin/env bash
# Makes a virtual environment in this checkout with versions that were verified together.
# Safe to run again: what is there is kept, what is missing is added, and a finished set-up takes seconds.
#
#   tools/setup_env.sh                  set up, or add what is missing
#   tools/setup_env.sh --missing-packages   print the Debian packages that are missing (nothing if none)
#
# STACK=stock (the default) makes .venv with OpenMMLab's packages, STACK=onedl makes .venv-onedl with OneDL's forks of them.
# PYTHON=/path/to/python3.11 chooses the interpreter. If that interpreter already has torch >= 2.0 (a CUDA build, say), or the
# environment has one, that torch is used. MAX_JOBS limits the compiler processes. pip's own settings (PIP_INDEX_URL, pip.conf)
# apply as usual.
set -euo pipefail

# ---- What was verified together -------------------------------------------------------------------------------------
PYTHON_VERSION=3.11
TORCH='torch==2.13.0'
# After torch, which brings a newer setuptools: mmcv 2.1.0 needs pkg_resources, gone in setuptools 81.
BUILD_TOOLS=('setuptools<81' 'wheel==0.48.*' 'ninja==1.13.*' 'psutil==7.2.*')
STACK=${STACK:-stock}
case $STACK in
  stock)
    VENV_NAME=.venv
    MMENGINE='mmengine==0.10.7'
    MMCV='mmcv==2.1.0'
    MMDET='mmdet==3.3.0'
    ;;
  onedl)
    # The same import names under other distribution names, hence never in one environment with the stock ones.
    VENV_NAME=.venv-onedl
    MMENGINE='onedl-mmengine==0.10.12'
    MMCV='onedl-mmcv==2.3.6'
    MMDET='onedl-mmdetection==3.5.1'
    ;;
  *)
    echo "set-up stopped: STACK=$STACK is unknown: choose stock (OpenMMLab's packages) or onedl (OneDL's forks)." >&2
    exit 1
    ;;
esac
# What the package itself needs; it is installed without its dependencies.
OWN=('safetensors==0.8.*')
# Optional in use, each tested: export and engines, a faster evaluation, TensorBoard.
OPTIONAL=('onnx==1.23.*' 'onnxscript==0.7.*' 'onnxruntime==1.32.*' 'openvino==2026.4.*' 'faster-coco-eval==1.8.*' 'tensorboard==2.21.*')
DEV_TOOLS=('pytest==9.2.*' 'pytest-xdist==3.8.*' 'hypothesis==6.170.*' 'ruff==0.17.*' 'mypy==2.4.*')
# What mm* ask for without a version. Not applied beside a torch of the user's own, which has its own needs (numpy).
CONSTRAINTS=('numpy==2.4.6' 'opencv-python==5.0.0.93' 'pycocotools==2.0.11' 'scipy==1.17.1' 'matplotlib==3.11.2'
  'shapely==2.2.0' 'yapf==0.43.0')
# Everything but torch, of which any release from 2.0 is accepted.
PINS=("${BUILD_TOOLS[@]}" "$MMENGINE" "$MMCV" "$MMDET" "${OWN[@]}" "${OPTIONAL[@]}" "${DEV_TOOLS[@]}")

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/$VENV_NAME
VPY=$VENV/bin/python
STAMP=$VENV/setup.stamp
LOG=$VENV/setup.log
HEARTBEAT_SECONDS=30
heartbeat_pid=
headers= # a folder of 400 MB while mmcv is compiled

say() { printf 'set-up: %s\n' "$*"; }
die() {
  printf 'set-up stopped: %s\n' "$*" >&2
  exit 1
}
stop_heartbeat() {
  [[ -z $heartbeat_pid ]] || kill "$heartbeat_pid" 2>/dev/null || true
  heartbeat_pid=
}
drop_headers() {
  [[ -z $headers ]] || rm -rf "$headers"
  headers=
}
trap 'stop_heartbeat; drop_headers' EXIT

# ---- What is there ----------------------------------------------------------------------------------------------------
runs() { "$1" -c '' >/dev/null 2>&1; }

# Prints those of the given requirements (name==1.2, name==1.2.*, name<81) that the environment does not satisfy.
unmet() {
  "$VPY" - "$@" <<'PY'
import re
import sys
from importlib.metadata import PackageNotFoundError, version

for requirement in sys.argv[1:]:
    name, relation, wanted = re.fullmatch(r'([\w-]+)(==|<)(.+)', requirement).groups()
    try:
        found = version(name).split('+')[0]
    except PackageNotFoundError:
        found = None
    if found is None:
        met = False
    elif relation == '<':
        met = int(found.split('.')[0]) < int(wanted)
    elif wanted.endswith('.*'):
        met = found == wanted[:-2] or found.startswith(wanted[:-1])
    else:
        met = found == wanted
    if not met:
        print(requirement)
PY
}

# Succeeds if interpreter $1 imports a torch of at least 2.0.
has_torch() {
  "$1" -c '
from importlib.metadata import version
assert int(version("torch").split(".")[0]) >= 2
import torch' >/dev/null 2>&1
}

# The pins, the package's own set-up and the place of the checkout: when one changes, the set-up runs again.
fingerprint() {
  {
    printf '%s\n' "$ROOT"
    cat "$ROOT/tools/setup_env.sh" "$ROOT/setup.py" "$ROOT/pyproject.toml" "$ROOT/mmdet_mobileformer/version.py"
  } | sha256sum | cut -d' ' -f1
}

# Without importing torch, so that it takes well under a second.
finished() {
  [[ -f $STAMP && $(<"$STAMP") == "$(fingerprint)" ]] && runs "$VPY" && [[ -z $(unmet "${PINS[@]}") ]] &&
    "$VPY" -c '
import ctypes, importlib.util as u, sys
from importlib.metadata import version
ctypes.CDLL("libGL.so.1")
assert int(version("torch").split(".")[0]) >= 2
assert all(u.find_spec(name) for name in ("torch", "mmcv", "mmdet", "mmdet_mobileformer"))' >/dev/null 2>&1
}

# ---- Checks -----------------------------------------------------------------------------------------------------------
choose_python() {
  if [[ -n ${PYTHON:-} ]]; then
    runs "$PYTHON" || die "PYTHON=$PYTHON does not run: give the path of a Python $PYTHON_VERSION."
  elif [[ -e $VPY ]] && runs "$VPY"; then
    PYTHON=$VPY
  elif runs "python$PYTHON_VERSION"; then
    PYTHON=python$PYTHON_VERSION
  elif runs python3; then
    PYTHON=python3
  else
    PYTHON=
  fi
}

missing_packages() {
  local missing=()
  command -v "${CXX:-g++}" >/dev/null || missing+=(g++)
  if [[ -z $PYTHON ]]; then
    missing+=(python3 python3-dev python3-venv)
  else
    local probed
    probed=$("$PYTHON" - <<'PY'
import ctypes
import os
import sysconfig

if not os.path.isfile(os.path.join(sysconfig.get_path('include'), 'Python.h')):
    print('python3-dev')
try:
    import ensurepip  # noqa: F401  Debian's Python has venv, and ensurepip only with python3-venv
    import venv  # noqa: F401
except ImportError:
    print('python3-venv')
# opencv-python links both.
for library, package in (('libGL.so.1', 'libgl1'), ('libgthread-2.0.so.0', 'libglib2.0-0')):
    try:
        ctypes.CDLL(library)
    except OSError:
        print(package)
PY
    ) || die "$PYTHON failed while it was looked at what it has: give another one with PYTHON=/path/to/python$PYTHON_VERSION."
    # shellcheck disable=SC2206  # package names hold no blanks
    missing+=($probed)
  fi
  printf '%s\n' "${missing[*]-}"
}

check_python_version() {
  local found
  found=$("$PYTHON" -c 'import sys; sys.stdout.write("%d.%d.%d" % sys.version_info[:3])')
  [[ ${found%.*} == "$PYTHON_VERSION" ]] ||
    die "$PYTHON is Python $found, and this stack was verified on Python $PYTHON_VERSION only: run again with" \
      "PYTHON=/path/to/python$PYTHON_VERSION (Debian 12's python3 is $PYTHON_VERSION)."
}

check_index() {
  local scratch
  scratch=$(mktemp -d)
  "$VPY" -m pip download --quiet --no-deps --retries 1 --timeout 15 --dest "$scratch" 'wheel==0.48.*' >>"$LOG" 2>&1 || {
    rm -rf "$scratch"
    die "pip reaches no package index, and these are still to be installed: $* - connect to the network, or name a mirror in" \
      "PIP_INDEX_URL (pip's own words: $LOG)."
  }
  rm -rf "$scratch"
}

# A torch that sees a GPU makes mmcv compile CUDA code, which needs the compiler of the CUDA toolkit.
check_nvcc() {
  "$VPY" -c '
import sys, torch
from torch.utils.cpp_extension import CUDA_HOME
sys.exit(torch.cuda.is_available() and torch.version.cuda is not None and CUDA_HOME is None)' 2>>"$LOG" ||
    die "torch sees a GPU, so mmcv's operators are compiled for CUDA, and no nvcc was found: install the CUDA toolkit of the" \
      "version that torch was built with ($("$VPY" -c 'import torch; print(torch.version.cuda)')) or set CUDA_HOME to it."
}

# ---- Steps ------------------------------------------------------------------------------------------------------------
# heartbeat WHAT FIRST_LINE: a line every so often about what pip does, until it is stopped; "[3/77]" is ninja's count of objects.
heartbeat() {
  local what=$1 first_line=$2 seconds=0 count
  while sleep 1; do
    kill -0 $$ 2>/dev/null || exit 0
    seconds=$((seconds + 1))
    ((seconds % HEARTBEAT_SECONDS == 0)) || continue
    count=$(tail -n "+$first_line" "$LOG" | grep -oE '^ *\[[0-9]+/[0-9]+\]' | tail -n 1 | tr -d ' []' || true)
    say "$what: $((seconds / 60)) min $((seconds % 60)) s${count:+, ${count%/*} of ${count#*/} objects compiled}"
  done
}

# pip_install WHAT ARGUMENTS...: with pip's output in the log and a sign of life on the terminal.
pip_install() {
  local what=$1 first_line
  shift
  first_line=$(($(wc -l <"$LOG") + 1))
  heartbeat "$what" "$first_line" 9>&- &
  heartbeat_pid=$!
  "$VPY" -m pip install --no-input --disable-pip-version-check "$@" >>"$LOG" 2>&1 || {
    stop_heartbeat
    tail -n "+$first_line" "$LOG" | tail -n 12 >&2
    die "$what failed; the lines above are the end of $LOG. Run the same command again after mending it: what is done stays."
  }
  stop_heartbeat
}

make_venv() {
  if [[ -e $VPY || -L $VPY ]] && ! runs "$VPY"; then
    die "$VENV holds a Python that no longer runs: delete that folder and run again."
  fi
  if ! { [[ -e $VPY ]] && "$VPY" -m pip --version >/dev/null 2>&1; }; then
    local options=()
    # A virtual environment inherits from the interpreter below another one, never from that other one.
    if has_torch "$PYTHON"; then
      if "$PYTHON" -c 'import sys; sys.exit(sys.prefix != sys.base_prefix)'; then
        options=(--system-site-packages)
        say "$PYTHON has torch already: $VENV_NAME uses it"
      else
        say "$PYTHON belongs to a virtual environment, whose torch another one cannot use: $VENV_NAME gets its own"
      fi
    fi
    say "making the virtual environment $VENV"
    "$PYTHON" -m venv "${options[@]}" "$VENV" >&2 || die "$PYTHON -m venv failed, see above."
  fi
  echo '*' >"$VENV/.gitignore" # the environment is none of git's and ruff's business
  PYTHON=$VPY
  check_python_version
  export VIRTUAL_ENV=$VENV PATH="$VENV/bin:$PATH" # mmcv's build looks for ninja on PATH
  unset PYTHONHOME
}

compiler_processes() {
  local cores memory_gb
  cores=$(nproc)
  memory_gb=$(awk '/^MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
  # One takes up to 1 GB.
  echo $((cores < memory_gb ? cores : (memory_gb > 0 ? memory_gb : 1)))
}

# The operators must load and compute: a wheel in pip's cache may have been built against another torch.
operators_work() {
  "$VPY" -c '
import torch
from mmcv.ops import nms
kept = nms(torch.tensor([[0., 0., 2., 2.], [0., 0., 2., 2.]]), torch.tensor([0.5, 0.9]), 0.5)[1]
assert kept.tolist() == [1]' >>"$LOG" 2>&1
}

# Reading torch's headers is three quarters of the time of each of mmcv's files: g++ reads them once. Where its flags then differ
# from these it ignores the result and reads them again, which is slower and right. Other compilers, nvcc too, go without.
precompile_headers() {
  local places
  # CFLAGS are split at blanks.
  [[ ${TMPDIR:-/tmp} != *[[:space:]]* ]] || return 0
  "${CXX:-c++}" --version 2>/dev/null | grep -q 'Free Software Foundation' || return 0
  "$VPY" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' || return 0
  mapfile -t places < <("$VPY" -c '
from torch.utils.cpp_extension import include_paths
print(*(f"-I{path}" for path in include_paths()), sep="\n")')
  headers=$(mktemp -d)
  echo '#include <torch/types.h>' >"$headers/torch_types.h"
  # shellcheck disable=SC2086  # several flags
  "${CXX:-c++}" $CFLAGS -fPIC -std=c++17 "${places[@]}" -x c++-header "$headers/torch_types.h" >>"$LOG" 2>&1 || return 0
  CFLAGS+=" -include $headers/torch_types.h"
}

install_mmcv() {
  [[ -z $(unmet "$MMCV") ]] && operators_work && return
  check_nvcc
  export MMCV_WITH_OPS=1 MAX_JOBS="${MAX_JOBS:-$(compiler_processes)}"
  # In place of Python's own flags: without their debug symbols, which double the time and are of no use here.
  export CFLAGS="-O2${CFLAGS:+ $CFLAGS} -g0"
  local cached wheel=${MMCV%%==*}
  wheel=${wheel//-/_} # as file names of wheels spell it
  cached=$("$VPY" -m pip cache list "$wheel" 2>/dev/null | grep -o "$wheel-${MMCV#*==}-cp${PYTHON_VERSION/./}[^ ]*" | head -n 1 || true)
  if [[ -n $cached && -n $(unmet "$MMCV") ]]; then
    say "installing mmcv from the wheel that pip built earlier ($cached)"
    pip_install "installing mmcv" -v --no-build-isolation "${constraints[@]}" "$MMCV"
    operators_work && return
    say "that wheel does not work with the torch installed here"
  fi
  say "compiling mmcv's C++ operators, for which no ready-made wheel exists for this torch: three to ten minutes on two cores," \
    "once (compiler processes: $MAX_JOBS; pip keeps the wheel; log: $LOG)"
  precompile_headers
  if [[ -z $(unmet "$MMCV") ]]; then
    pip_install "compiling mmcv" -v --no-build-isolation --no-cache-dir --no-deps --force-reinstall "$MMCV"
  else
    pip_install "compiling mmcv" -v --no-build-isolation "${constraints[@]}" "$MMCV"
  fi
  drop_headers
  operators_work || die "mmcv is installed, but its operators do not work; the end of $LOG says why."
}

install_all() {
  local missing
  missing=$(unmet "${PINS[@]}")
  has_torch "$VPY" || missing="$TORCH $missing"
  missing=${missing//$'\n'/ }
  [[ -z $missing ]] || check_index "$missing"
  constraints=()
  if ! has_torch "$VPY"; then
    say "installing $TORCH (the download is large where the index serves a CUDA build)"
    pip_install "installing torch" "$TORCH"
  fi
  if ! grep -q '^include-system-site-packages *= *true' "$VENV/pyvenv.cfg"; then
    printf '%s\n' "${CONSTRAINTS[@]}" >"$VENV/constraints.txt"
    constraints=(--constraint "$VENV/constraints.txt")
  fi
  local group
  # mmengine before mmcv, which would else bring the newest one.
  mapfile -t group < <(unmet "${BUILD_TOOLS[@]}" "$MMENGINE")
  ((${#group[@]} == 0)) || pip_install "installing the build tools" "${constraints[@]}" "${group[@]}"
  install_mmcv
  mapfile -t group < <(unmet "$MMDET" "${OWN[@]}" "${OPTIONAL[@]}" "${DEV_TOOLS[@]}")
  if ((${#group[@]} > 0)); then
    say "installing ${group[*]}"
    pip_install "installing the rest" "${constraints[@]}" "${group[@]}"
  fi
  pip_install "installing mmdet-mobileformer itself" --no-build-isolation --no-deps --editable "$ROOT"
  missing=$(unmet "${PINS[@]}")
  [[ -z $missing ]] || die "pip changed these again: ${missing//$'\n'/ } ($LOG says which package asked for it)."
}

verify() {
  "$VPY" - 2>>"$LOG" <<'PY' || die "the packages are installed but do not import together; the end of $LOG says why."
import platform

import mmcv.ops
import mmdet
import mmdet.apis
import mmengine
import torch

gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
print(f'set-up: complete: Python {platform.python_version()}, torch {torch.__version__} ({gpu}), mmengine {mmengine.__version__}, '
      f'mmcv {mmcv.__version__} with operators, mmdet {mmdet.__version__}')
PY
}

# ---- In order ---------------------------------------------------------------------------------------------------------
main() {
  case ${1:-} in
    '') ;;
    --missing-packages)
      choose_python
      missing_packages
      exit 0
      ;;
    *) die "unknown argument $1: the only one is --missing-packages." ;;
  esac
  # The script is its own lock, so that parallel runs in one checkout wait for each other.
  command -v flock >/dev/null || die "the program flock is missing: apt-get install -y util-linux"
  exec 9<"${BASH_SOURCE[0]}"
  flock --nonblock 9 || {
    say "another set-up runs in this checkout; waiting for it"
    flock 9
  }
  if finished; then
    say "nothing to do ($VENV is complete)"
    exit 0
  fi
  choose_python
  [[ -z $PYTHON ]] || check_python_version # before the packages: those of a wrong Python help nobody
  local missing
  missing=$(missing_packages)
  [[ -z $missing ]] || die "system packages are missing; on Debian as root: apt-get install -y $missing"
  make_venv
  rm -f "$STAMP"
  printf '== %s\n' "$(date)" >>"$LOG"
  install_all
  verify
  say "compiling the package's own kernels (without a compiler they are left out)"
  (cd "$ROOT" && "$VENV/bin/python" -c 'from mmdet_mobileformer.kernels import why_no_kernels; print(why_no_kernels() or "done")') \
    >>"$LOG" 2>&1 || true
  fingerprint >"$STAMP"
}

main "$@"; exit # bash reads a script as it runs: nothing is read after an edit
