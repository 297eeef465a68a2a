#!/bin/sh
# Unpacks a newer Debian's Python for x86-64, which runs on this machine with that Debian's own loader
# and C library, and with venvs and headers: for `make wheels` and `make matrix`. Nothing is installed.
# Prints its path.
#
#   sh tools/newer_python.sh forky 3.14
set -eu

suite=$1 version=$2
root=$PWD/build/pythons/$suite-$version
python=$root/usr/bin/python$version
libraries=$root/usr/lib/x86_64-linux-gnu

[ ! -e "$root/done" ] || { echo "$python"; exit; }
rm -rf "$root"
sh tools/unpack.sh "$suite" amd64 "$root" \
    "python$version" "python$version-venv" "libpython$version-dev" libstdc++6

ln -sfn usr/lib "$root/lib" && ln -sfn usr/lib64 "$root/lib64"
# The same program over libpython, but with that loader: patchelf 0.18 breaks Debian's. RPATH, as
# RUNPATH is not for what the modules of the standard library need.
echo 'int Py_BytesMain(int, char **); int main(int n, char **v) { return Py_BytesMain(n, v); }' |
    gcc --sysroot="$root" -x c - -o "$python" -B"$libraries" -L"$libraries" "-lpython$version" \
        -Wl,--dynamic-linker="$root/usr/lib64/ld-linux-x86-64.so.2" \
        -Wl,--disable-new-dtags,-rpath="$libraries"
# Its pyconfig.h includes <x86_64-linux-gnu/python3.14/pyconfig.h>, beside which only Debian's own
# compiler looks.
ln -sfn ../x86_64-linux-gnu "$root/usr/include/python$version/"
# Where headers and ensurepip's wheels are.
sed -i "s,: '/usr/,: '$root/usr/," "$root/usr/lib/python$version"/_sysconfigdata_*.py
"$python" -c "import ctypes, lzma, sqlite3, ssl"
touch "$root/done"
echo "$python"
