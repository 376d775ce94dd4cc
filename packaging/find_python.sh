#!/bin/sh
# Prints the Python for the set-up: that of .venv if there is one, else one of 3.11 to 3.13 on the PATH.
# PYTHON=... chooses another one. Without any, installs one where that is possible, else names the command.
set -u

works() {
    "$1" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' >/dev/null 2>&1
}

find_python() {
    for name in ${PYTHON:-.venv/bin/python python3 python3.13 python3.12 python3.11}; do
        if works "$name"; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

if find_python; then
    exit 0
fi
if [ -n "${PYTHON:-}" ]; then
    echo "PYTHON=$PYTHON is no Python 3.11, 3.12 or 3.13" >&2
    exit 1
fi

as_root=none
if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true >/dev/null 2>&1; then
    as_root="sudo -n"
fi

package=
if command -v apt-cache >/dev/null 2>&1; then
    if [ "$as_root" != none ] && [ -z "$(apt-cache madison python3 2>/dev/null)" ]; then
        $as_root apt-get -qq update >&2
    fi
    for version in 3.13 3.12 3.11; do
        if [ -n "$(apt-cache madison "python$version" 2>/dev/null)" ]; then
            package="python$version python$version-venv"
            break
        fi
    done
fi
if [ -z "$package" ]; then
    echo "Tokenglass needs Python 3.11, 3.12 or 3.13, and this system has none. Install one and run the same" >&2
    echo "command again, or name it: make run PYTHON=/path/to/python3.12" >&2
    exit 1
fi
if [ "$as_root" = none ]; then
    echo "Tokenglass needs Python 3.11, 3.12 or 3.13. Install it, then run the same command again:" >&2
    echo "  sudo apt-get install -y $package" >&2
    exit 1
fi
echo "installing $package" >&2
# shellcheck disable=SC2086  # the words are meant to split
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $package \
    >/dev/null || exit 1
find_python
