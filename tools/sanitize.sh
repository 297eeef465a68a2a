#!/bin/sh
# Builds the native modules with sanitizers into copies of the project, once for addresses and
# undefined behaviour, once for threads, and runs the tests of memory, messages, the node store and
# transfers over them. Fails on any report, and if any test fails. Tests that are left out are named
# here, with the reason. Transfers run without the thread sanitizer: their native module has no state
# that threads could share, and they would last a quarter of an hour.
set -eu

root=$(pwd)
bin=$root/$VENV/bin
status=0

build() { # build COPY FLAGS
    rm -rf "$1"
    mkdir -p "$1/reports"
    chmod 1777 "$1/reports" # some tests become another user
    git ls-files | tar -cT - | tar -xC "$1"
    "$bin/cmake" -S "$1" -B "$1/build" -GNinja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
        -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="$2 -O1 -g1 -DNDEBUG -fno-omit-frame-pointer" \
        -DCMAKE_MAKE_PROGRAM="$bin/ninja" \
        -DPython_EXECUTABLE="$bin/python" -Dpybind11_DIR="$("$bin/python" -m pybind11 --cmakedir)"
    "$bin/cmake" --build "$1/build"
    cp -r "$1"/build/libarrow_* "$1/build/_build_info.py" "$1/zerrow_store/native/"
    cp "$1"/build/_ledger*.so "$1"/build/_disk*.so "$1/zerrow_store/"
    cp "$1"/build/_streams*.so "$1/zerrow_store/transfer/"
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

seen() { # seen FLAGS REPORTS : whether planted faults are reported, by all that should
    g++ -shared -fPIC $1 tools/planted_faults.cc -o "$copy/planted_faults.so"
    instrumented -c "import ctypes; ctypes.CDLL('$copy/planted_faults.so').planted_faults(1)" || true
    found=$(ls "$copy/reports" | sed 's/[.].*//' | sort -u | xargs)
    [ "$found" = "$2" ] || { echo "planted faults are reported by: $found, not by: $2" >&2; exit 1; }
    rm "$copy"/reports/*
}

run() { # run COPY LIBRARY FLAGS REPORTS TESTS... : the tests over a copy, the library in all processes
    copy=$1 preload="$(g++ -print-file-name="$2") $(g++ -print-file-name=libstdc++.so)"
    seen "$3" "$4"
    shift 4
    instrumented -c "from zerrow_store.native import _native as n; assert '$copy' in n.__file__, n"
    instrumented -m pytest "$@" || status=1
    for report in "$copy"/reports/*; do
        [ -e "$report" ] || continue
        cat "$report"
        status=1
    done
}

addresses=$root/build/sanitized-address
flags="-fsanitize=address,undefined -fno-sanitize=vptr"
build "$addresses" "$flags"
# Python itself does not give back all memory. Faults on purpose are part of the tests.
export ASAN_OPTIONS="detect_leaks=0:handle_segv=0:log_path=$addresses/reports/asan"
# The two libraries have functions of the same names, and the one for addresses was loaded first: the
# other one's log_path is set there, and its own only by hand.
export UBSAN_OPTIONS="print_stacktrace=1:log_path=$addresses/reports/asan"
cat >>"$addresses/sitecustomize.py" <<EOF
import ctypes

ubsan = ctypes.CDLL("$(g++ -print-file-name=libubsan.so)")
ubsan.__sanitizer_set_report_path(b"$addresses/reports/ubsan")
EOF
# Left out, here and below, is what counts the process's page faults, and what a control group charges
# it: both include those of the sanitizer's own memory. In the environment, as some tests run others.
counting="--deselect tests/memory/test_huge_pages.py::test_writing_and_reading_fault_once_for_each_huge_page
 --deselect tests/memory/test_confined_huge_pages.py::test_what_is_left_of_a_limit_is_used_in_small_pages"
export PYTEST_ADDOPTS="$counting"
run "$addresses" libasan.so "$flags" "asan ubsan" tests/memory tests/sipc tests/node tests/transfer

threads=$root/build/sanitized-thread
flags="-fsanitize=thread"
build "$threads" "$flags"
# polars does not survive the sanitizer's being loaded.
echo 'raise ModuleNotFoundError("polars crashes under the thread sanitizer")' >"$threads/polars.py"
# A forked child may start a thread, but not one with the number of a thread of its parent: that ends it.
# The threads that OpenBLAS and Arrow's allocator start when they are loaded are not needed.
export OPENBLAS_NUM_THREADS=1 JE_ARROW_MALLOC_CONF=background_thread:false
# Arrow and Python are not instrumented, and Arrow's allocator holds more locks at a fork than can be
# followed. Where a thread's variables lie the sanitizer would guess from what glibc 2.19 wrote before
# them; newer ones write nothing, and now and then it took garbage for an address and died.
export TSAN_OPTIONS="ignore_noninstrumented_modules=1:detect_deadlocks=0:die_after_fork=0:\
intercept_tls_get_addr=0:handle_segv=0:log_path=$threads/reports/tsan"
# Left out are
# - a child that is killed inside of the sanitizer's sendmsg(), while it shares its parent's memory and so
#   the sanitizer's books;
# - forks of a process with threads, whose children start as many: see above;
# - tests that see by its second thread that a server writes to disk: the sanitizer has one, too.
export PYTEST_ADDOPTS="$counting
 --deselect tests/memory/test_confined_huge_pages.py::test_nothing_is_left_of_a_child_that_is_killed[sendmsg
 --deselect tests/node/test_forks.py::test_a_fork_while_each_lock_is_held
 --deselect tests/memory/test_fork.py::test_what_the_parent_writes_to_arrays_of_arrows_does_not_reach_the_child
 --deselect tests/node/test_eviction.py::test_kill_9_of_the_store_while_it_spills
 --deselect tests/node/test_eviction.py::test_kill_9_of_all_of_a_store_leaves_no_files"
run "$threads" libtsan.so "$flags" tsan tests/memory tests/sipc tests/node

exit $status
