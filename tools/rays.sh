#!/bin/sh
# Runs what hangs most on Ray's own workings over the older versions that the plugin is made for. Each
# is laid beside the environment's own one, which has all that Ray needs besides.
set -eu

python=$VENV/bin/python

for version in ${RAYS:-2.57 2.58 2.59}; do
    laid=$PWD/build/rays/$version
    if [ ! -d "$laid/ray" ]; then
        "$python" -m pip --disable-pip-version-check install --quiet --no-deps \
            --target "$laid" "ray==$version.*" || exit 1
    fi
    PYTHONPATH=$laid "$python" -c \
        "import ray; assert ray.__version__.startswith('$version.'), ray.__version__"
    echo "Ray $version"
    PYTHONPATH=$laid "$python" -m pytest \
        tests/ray/test_activation.py tests/ray/test_owners.py tests/ray/test_streams.py \
        tests/ray/test_references.py tests/ray/test_far_owners.py tests/ray/test_cli.py
done
