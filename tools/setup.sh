#!/bin/sh
# Makes the virtual environment and builds the native modules into it. What has to be there is
# installed from Debian when it may be, and named when it may not; what else is missing is named, and
# stops nothing. What pip says goes to a log.
set -eu

log=build/setup.log
mkdir -p build

say() { echo "setup: $*"; }

may_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

install() { # install PACKAGE... : from Debian
    say "installing $* with apt"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"; } >>"$log" 2>&1
}

need() { # need PACKAGE... : nothing works without
    if ! may_install; then
        say "these are missing: $*. Install them (sudo apt-get install $*) and run make again." >&2
        exit 1
    fi
    install "$@" || fail
}

want() { # want PACKAGE WITHOUT : one part is off without
    if may_install && install "$1"; then return; fi
    say "$1 is missing: $2 (sudo apt-get install $1)"
}

fail() {
    tail -n 20 "$log" >&2
    say "failed; all that was said is in $log" >&2
    exit 1
}

pip() {
    PIP_ROOT_USER_ACTION=ignore "$VENV/bin/python" -m pip --disable-pip-version-check "$@" \
        >>"$log" 2>&1 || fail
}

: >"$log"
command -v "$PYTHON" >/dev/null || need python3.11 python3.11-venv python3.11-dev
command -v g++ >/dev/null || need g++
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || need python3.11-venv
"$PYTHON" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
    need python3.11-dev

# The loader is asked: ldconfig is not in everybody's PATH.
"$PYTHON" -c 'import ctypes; ctypes.CDLL("libseccomp.so.2")' 2>/dev/null ||
    want libseccomp2 "sandboxes have no system call filter"
command -v bwrap >/dev/null || want bubblewrap "there are no sandboxes"
command -v dot >/dev/null || want graphviz "DAGs are not drawn"

if [ ! -x "$VENV/bin/python" ]; then
    say "making the virtual environment $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv "$VENV" >>"$log" 2>&1 || fail
fi
say "installing Ray, pyarrow and what else is needed, and building the native modules: some minutes"
pip install --upgrade "pip>=25"
pip install --editable ".[dev,bench,docs]"
say "done; $VENV/bin/zerrow doctor says what this machine can do"
