#!/bin/sh
# Builds the native modules with sanitizers into copies of the project, once for addresses and
# undefined behaviour, once for threads, and runs the tests of memory, messages and the node store
# over them. Fails on any report.
set -eu

root=$(pwd)
bin=$root/$VENV/bin
status=0

build() { # build COPY FLAGS
    rm -rf "$1"
    mkdir -p "$1/reports"
    git ls-files | tar -cT - | tar -xC "$1"
    "$bin/cmake" -S "$1" -B "$1/build" -GNinja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
        -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="$2 -O1 -g1 -DNDEBUG -fno-omit-frame-pointer" \
        -DCMAKE_MAKE_PROGRAM="$bin/ninja" \
        -DPython_EXECUTABLE="$bin/python" -Dpybind11_DIR="$("$bin/python" -m pybind11 --cmakedir)"
    "$bin/cmake" --build "$1/build"
    cp "$1"/build/_native*.so "$1/build/_build_info.py" "$1/zerrow_store/native/"
    cp "$1"/build/_ledger*.so "$1"/build/_disk*.so "$1/zerrow_store/node/"
    # The finder of the editable installation comes before PYTHONPATH, in every process.
    cat >"$1/sitecustomize.py" <<'EOF'
import sys

sys.meta_path = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
EOF
}

instrumented() { # instrumented ARGUMENTS... : Python over a copy
    # The address of a mapping means something to the sanitizers: none is to be drawn by lot.
    (cd "$copy" && LD_PRELOAD=$preload PYTHONPATH="$copy:$copy/integrations" \
        setarch -R "$bin/python" "$@")
}

run() { # run COPY LIBRARY TESTS... : the tests over a copy, with a sanitizer's library in all processes
    copy=$1 preload="$(g++ -print-file-name="$2") $(g++ -print-file-name=libstdc++.so)"
    shift 2
    instrumented -c "from zerrow_store.native import _native as n; assert '$copy' in n.__file__, n"
    instrumented -m pytest "$@" || status=1
    for report in "$copy"/reports/*; do
        [ -e "$report" ] || continue
        cat "$report"
        status=1
    done
}

addresses=$root/build/sanitized-address
build "$addresses" "-fsanitize=address,undefined -fno-sanitize=vptr"
# Python itself does not give back all memory. Faults on purpose are part of the tests.
export ASAN_OPTIONS="detect_leaks=0:handle_segv=0:log_path=$addresses/reports/asan"
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$addresses/reports/ubsan"
run "$addresses" libasan.so tests/memory tests/sipc tests/node

threads=$root/build/sanitized-thread
build "$threads" "-fsanitize=thread"
# Arrow and Python are not instrumented, and Arrow's allocator holds more locks at a fork than can be
# followed. A forked child may start a thread, but not one with the number of a thread of its parent:
# that ends it, as in the test that is left out.
# polars does not survive the sanitizer's being loaded.
echo 'raise ModuleNotFoundError("polars crashes under the thread sanitizer")' >"$threads/polars.py"
export TSAN_OPTIONS="ignore_noninstrumented_modules=1:detect_deadlocks=0:die_after_fork=0:\
handle_segv=0:log_path=$threads/reports/tsan"
run "$threads" libtsan.so tests/memory tests/sipc tests/node \
    --deselect tests/memory/test_arena.py::test_a_double_free_aborts_instead_of_corrupting

exit $status
