#!/bin/sh
# Unpacks Debian's packages, with all that they depend on, into a folder: headers and libraries of
# another Debian or another processor to build with. Nothing is installed, nothing of them runs, and
# the machine's apt is left as it is, so that any user can.
#
#   sh tools/unpack.sh SUITE ARCHITECTURE FOLDER PACKAGE...
set -eu

suite=$1 architecture=$2 folder=$3
shift 3
# A Debian that has ended moves to the second.
sites=${DEBIAN_SITES:-http://deb.debian.org/debian http://archive.debian.org/debian}

[ -d "$folder" ] && exit
command -v apt-get >/dev/null || {
    echo "tools/unpack.sh wants apt-get, and a Debian's keys" >&2
    exit 1
}

apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/cache/archives/partial" "$apt/lists/partial"
: >"$apt/status"
for site in $sites; do
    # An archive is no longer signed anew.
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no]" \
        "$site $suite main" >>"$apt/sources.list"
done
cat >"$apt/apt.conf" <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Debug::NoLocking "true";
Dir::Cache "$apt/cache";
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$apt/lists";
Dir::State::Status "$apt/status";
END
export APT_CONFIG="$apt/apt.conf"

# One of the sites may not have it: what counts is what can be had afterwards.
apt-get -qq update >"$apt/said" 2>&1 || true
apt-get -qq --download-only --yes install "$@" >>"$apt/said" 2>&1 || {
    cat "$apt/said" >&2
    exit 1
}

mkdir -p "$folder.part"
for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$folder.part"
done
# Absolute links would lead to the machine's own files.
find "$folder.part" -type l | while read -r link; do
    target=$(readlink "$link")
    case $target in
    /*) ln -sfn "$(realpath -m --relative-to="$(dirname "$link")" "$folder.part$target")" "$link" ;;
    esac
done
mv "$folder.part" "$folder"
