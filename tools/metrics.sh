#!/bin/sh
# Runs the tests of metrics with ray[default] laid beside the environment's own Ray: with it every
# node of every other test would have Ray's whole dashboard agent.
set -eu

python=$VENV/bin/python
laid=$PWD/build/ray-default

if [ ! -d "$laid/opencensus" ]; then
    version=$("$python" -c "import ray; print(ray.__version__)")
    "$python" -m pip --disable-pip-version-check install --quiet \
        --target "$laid" "ray[default]==$version"
fi
PYTHONPATH=$laid "$python" -m pytest tests/metrics tests/ray/test_metrics.py
