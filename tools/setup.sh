#!/bin/sh
# Makes the virtual environment and builds the native module into it.
# Installs what is missing from Debian when it may, and says what to install when it may not.
set -eu

need() { # need PACKAGE... : install them when root, else say so and stop
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"
    else
        echo "zerrow-store needs: $*. Install them (sudo apt-get install $*) and run make again." >&2
        exit 1
    fi
}

command -v "$PYTHON" >/dev/null || need python3.11 python3.11-venv python3.11-dev
command -v g++ >/dev/null || need g++
command -v dot >/dev/null || need graphviz
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || need python3.11-venv
"$PYTHON" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
    need python3.11-dev

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[dev,bench]"
