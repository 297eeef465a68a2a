#!/bin/sh
# Runs what README.md says of installing, from the sources and from a wheel, as an ordinary user of
# an empty Debian: the lines are README's, word for word, and so are the packages. Wants root and
# debootstrap.
#
#   DEBIANS="bookworm bullseye"      which Debians
#   WAYS="sources wheel"             what is run; the wheel is one of dist/
#   PYTHON_FROM=bookworm             for a Debian whose Python is too old: compile one from the
#                                    sources that another Debian has; empty: say so and go on
#   DEBIAN_MIRROR=...                for debootstrap and apt
#
# How pip and apt reach their packages is this machine's business: variables named PIP_*, SSL_* and CMAKE_*
# are handed in with the files that they name, and apt's proxies. The roots lie in build/debian and are
# removed. Mounts and processes are in namespaces of their own, and end with this script.
set -eu

suites=${DEBIANS:-bookworm bullseye}
ways=${WAYS:-sources wheel}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
work=$PWD/build/debian
user=someone
home=/home/$user

say() { echo "debian: $*"; }
fail() { say "$*" >&2; exit 1; }

# What README.md says, of one way: "From the sources ..." or "From a wheel ...".
heading() { sed -n "s/^From [a-z]* $1.*apt-get install \([^\`]*\)\`.*/\1/p" README.md; }
commands() {
    awk -v way="$1" '
        $1 == "From" && $3 ~ "^" way { found = 1; next }
        found && /^    / { print substr($0, 5); printed = 1 }
        printed && !/^    / { exit }
    ' README.md
}

in_root() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@"; }

as_user() {
    chroot --userspec=$user:$user "$root" /usr/bin/env -i HOME=$home USER=$user LC_ALL=C.UTF-8 \
        PATH=/usr/local/bin:/usr/bin:/bin "$@"
}

apt() { in_root apt-get -qq "$@" >>"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "apt-get $*"; }; }

make_root() {
    say "$suite: making an empty one"
    rm -rf "$root"
    mkdir -p "$root" "$work/packages"
    debootstrap --variant=minbase --cache-dir="$work/packages" "$suite" "$root" "$mirror" \
        >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "debootstrap of $suite failed"; }
    # debootstrap has mounted and unmounted /proc.
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    apt-config dump | grep -iE '^Acquire::https?::.*proxy' >"$root/etc/apt/apt.conf.d/90proxy" || true
    in_root useradd --create-home --shell /bin/sh $user
}

hand_in() { # variables for pip, with the files that they name
    handed=
    for name in $(env | sed -n 's/^\(\(PIP\|SSL\|CMAKE\)_[A-Z_]*\)=.*/\1/p'); do
        value=$(printenv "$name")
        handed="$handed $name=$value"
        [ ! -f "$value" ] || install -D -m 644 "$value" "$root$value"
    done
}

python_is_too_old() { in_root python3 -c 'import sys; sys.exit(sys.version_info >= (3, 10))'; }

compile_python() { # as a user of such a Debian has to, one way or another
    say "$suite: compiling a Python of $PYTHON_FROM"
    echo "deb-src $mirror $PYTHON_FROM main" >"$root/etc/apt/sources.list.d/python.list"
    apt update
    apt install --yes --no-install-recommends dpkg-dev g++ make zlib1g-dev libssl-dev libffi-dev \
        libbz2-dev liblzma-dev libsqlite3-dev
    in_root sh -c '
        set -e
        mkdir /usr/src/python && cd /usr/src/python
        apt-get -qq source --download-only python3.11
        mkdir sources && tar -x --strip-components 1 -C sources -f python3.11_*.orig.tar.*
        cd sources && ./configure --quiet --prefix=/usr/local && make -s && make -s install
    ' >>"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "Python could not be compiled"; }
}

run_way() { # run_way WAY
    way=$1
    packages=$(heading "$way")
    [ -n "$packages" ] && [ "$(commands "$way" | wc -l)" -eq 2 ] ||
        fail "README.md no longer says it in two commands: $way"
    say "$suite, $way: apt-get install $packages"
    # shellcheck disable=SC2086
    apt install --yes --no-install-recommends $packages
    rm -rf "$root$home"
    mkdir -p "$root$home/zerrow-store"
    case $way in
    sources) git archive HEAD | tar -x -C "$root$home/zerrow-store" ;;
    wheel) cp -r dist "$root$home/zerrow-store/" ;;
    esac
    chroot "$root" chown -R $user:$user "$home"
    hand_in  # once apt has installed its own certificates
    commands "$way" | sed "s/^/debian:     /"
    # shellcheck disable=SC2086
    if as_user $handed sh -ec "cd $home/zerrow-store
$(commands "$way")" >"$work/out" 2>"$work/err"; then
        tail -n 3 "$work/out"
        # Eleven columns of 32 MiB, where Ray's own store would have to hold 66; 0 B: no plugin.
        grep -q '^stored: 35[2-9]' "$work/out" && grep -q '^copied: 0 B' "$work/out" ||
            { cat "$work/err" >&2; fail "$suite, $way: the demo did not share"; }
        result="$result
$suite	$(as_user python3 --version)	$way	works"
    else
        tail -n 30 "$work/out" "$work/err" >&2
        fail "$suite, $way: failed"
    fi
}

if [ "${1:-}" != --inside ]; then
    [ "$(id -u)" -eq 0 ] || fail "this takes root: it makes a Debian below build/debian"
    command -v debootstrap >/dev/null || fail "debootstrap is missing (apt-get install debootstrap)"
    mkdir -p "$work"
    # The roots go once nothing is mounted there.
    trap 'rm -rf "$work"/root-*' EXIT
    unshare --mount --pid --fork --kill-child sh "$0" --inside &
    inside=$!
    trap 'kill -9 $inside; exit 1' INT TERM
    wait $inside
    exit
fi

mount -t proc proc /proc
result=
for suite in $suites; do
    root=$work/root-$suite
    log=$work/$suite.log
    make_root
    apt update
    apt install --yes --no-install-recommends python3
    if python_is_too_old; then
        said="Debian has $(in_root python3 --version), and 3.10 is the oldest that will do"
        say "$suite: $said"
        [ -n "${PYTHON_FROM:-}" ] || {
            result="$result
$suite	-	-	$said"
            continue
        }
        compile_python
    fi
    for way in $ways; do run_way "$way"; done
done
echo "$result"
