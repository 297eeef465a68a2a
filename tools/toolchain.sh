#!/bin/sh
# Makes build/toolchains/$ARCH/bin/g++: Debian's g++, for programs that run with glibc 2.28 and with
# libstdc++ of GCC 8, which is what manylinux_2_28 promises.
#
# - C's headers and libraries are Debian 11's (glibc 2.31): its functions have the versions of 2.28
#   or older ones, but for a few, which the built wheel is checked for (auditwheel).
# - libstdc++ is used as GCC's toolset for RHEL does: dynamically where Debian 11's has a symbol, and
#   what only the compiler's own has is taken from its static one. The latter is not exported.
# - The compiler's libstdc++ is configured for the glibc that it was built with; the three settings
#   that name functions of glibc 2.30 are taken back.
set -eu

place=$PWD/build/toolchains/$ARCH
triple=$ARCH-linux-gnu
root=$place/root

case $ARCH in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) echo "no toolchain for $ARCH: x86_64 or aarch64" >&2; exit 1 ;;
esac
compiler=$(command -v "$triple-g++") || {
    echo "$triple-g++ is missing; Debian has it in g++-$(echo "$triple" | tr _ -)" >&2
    exit 1
}
[ -x "$place/bin/g++" ] && exit

sh tools/unpack.sh bullseye "$architecture" "$root" libc6-dev libstdc++6

# What the compiler finds C++'s headers in.
headers=$("$compiler" -E -x c++ -v /dev/null 2>&1 | sed -n 's,^ \(/.*/c++/.*\),\1,p')
(cd "$place" && rm -rf include lib bin)
mkdir -p "$place/include/bits" "$place/lib" "$place/bin"
for folder in $headers; do
    [ ! -f "$folder/bits/c++config.h" ] || config=$folder/bits/c++config.h
done
sed 's,^#define \(_GLIBCXX_USE_PTHREAD_[A-Z]*_CLOCK[A-Z]*\) 1$,/* \1: glibc 2.30 */,' "$config" \
    >"$place/include/bits/c++config.h"

# Debian's Pythons have a part of their headers here.
mkdir -p "$place/include/$(uname -m)-linux-gnu"
for folder in /usr/include/"$(uname -m)"-linux-gnu/python3.*; do
    [ ! -d "$folder" ] || ln -sfn "$folder" "$place/include/$(uname -m)-linux-gnu/"
done

echo "INPUT($root/usr/lib/$triple/libstdc++.so.6 $("$compiler" -print-file-name=libstdc++.a))" \
    >"$place/lib/libstdc++.so"

includes="-nostdinc -isystem $place/include"
for folder in $headers "$("$compiler" -print-file-name=include)" \
    "$root/usr/include/$triple" "$root/usr/include"; do
    includes="$includes -isystem $folder"
done
libraries="-L$place/lib"
for folder in "$root/usr/lib/$triple" "$root/lib/$triple"; do
    libraries="$libraries -B$folder -L$folder"
done
# With --as-needed, which Debian's compiler may pass, link-time optimization takes all of libstdc++ from
# the static one.
linker="-Wl,--no-as-needed -Wl,--exclude-libs,libstdc++.a"
for program in ar nm objcopy objdump ranlib readelf strip; do
    ln -s "$(command -v "$triple-$program")" "$place/bin/$program"
done
cat >"$place/bin/g++" <<END
#!/bin/sh
exec $compiler --sysroot=$root $includes $libraries $linker "\$@"
END
chmod +x "$place/bin/g++"
