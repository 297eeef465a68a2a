#!/bin/sh
# The tests beside the oldest versions of what the plugin is made for: a source install of its own.
# PYTHON: python3.10, where there is one. What is given goes to pytest.
set -eu

venv=build/oldest
if [ ! -e "$venv/.installed" ]; then
    "${PYTHON:-python3.11}" -m venv "$venv"
    install() {
        "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --constraint tools/oldest.txt "$@"
    }
    install "pip>=25"
    install pyarrow numpy # first: the native module is built for what is there
    install --config-settings build-dir="$venv/native" --editable ".[tests,bench]"
    touch "$venv/.installed"
fi
"$venv/bin/python" -m pytest "$@"
