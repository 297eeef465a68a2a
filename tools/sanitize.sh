#!/bin/sh
# Builds the native modules with the address and undefined-behaviour sanitizers into a copy of the
# project and runs the tests of memory, messages and the node store over them. Fails on any report.
set -eu

root=$(pwd)
python=$root/$VENV/bin/python
copy=$root/build/sanitized
reports=$copy/reports
rm -rf "$copy"
mkdir -p "$reports"
git ls-files | tar -cT - | tar -xC "$copy"

"$root/$VENV/bin/cmake" -S "$copy" -B "$copy/build" -GNinja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DCMAKE_MAKE_PROGRAM="$root/$VENV/bin/ninja" \
    -DCMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer" \
    -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)"
"$root/$VENV/bin/cmake" --build "$copy/build"
cp "$copy"/build/_native*.so "$copy/build/_build_info.py" "$copy/zerrow_store/native/"
cp "$copy"/build/_ledger*.so "$copy"/build/_disk*.so "$copy/zerrow_store/node/"

cd "$copy"
status=0
# Python itself does not give back all memory. Faults on purpose are part of the tests.
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS="detect_leaks=0:handle_segv=0:log_path=$reports/asan" \
    UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/ubsan" \
    PYTHONPATH="$copy:$copy/integrations" \
    "$python" -m pytest tests/memory tests/sipc tests/node || status=1
for report in "$reports"/*; do
    [ -e "$report" ] || continue
    cat "$report"
    status=1
done
exit $status
