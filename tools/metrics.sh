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

# One test asks a real Prometheus. It is not installed, which would start a service.
if [ ! -d build/prometheus ] && ! command -v prometheus >/dev/null; then
    (
        cd build
        apt-get -qq download prometheus && dpkg-deb --extract prometheus_*.deb prometheus
    ) || echo "no Prometheus can be had: its test is skipped" >&2
    rm -f build/prometheus_*.deb
fi
PYTHONPATH=$laid "$python" -m pytest tests/metrics tests/ray/test_metrics.py
