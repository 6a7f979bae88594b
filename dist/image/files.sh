#!/bin/sh
# Lays out what the image has beside the program. Apart from compile.sh, so that a change here compiles
# nothing anew.
#
#   files.sh licences FOLDER   the licences of what the compilers put into the program
#   files.sh plain FOLDER      what a base image has to have for it
set -eu

licences() {
    mkdir -p "$1"
    # glibc is under the LGPL: whoever gets the image may link the program anew with another one, out of
    # the sources and with this file.
    cp /usr/share/doc/libc6-dev/copyright "$1/glibc.copyright"
    cat /usr/share/doc/libgcc-*-dev/copyright >"$1/libgcc.copyright"
    cp /usr/share/common-licenses/LGPL-2.1 /usr/share/common-licenses/GPL-3 "$1"
    # Rust's own, as Debian has it, or else as its makers do.
    if [ -e /usr/share/doc/libstd-rust-web-dev/copyright ]; then
        cp /usr/share/doc/libstd-rust-web-dev/copyright "$1/rust.copyright"
    else
        cp "$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html" "$1"
    fi
}

plain() {
    mkdir -p "$1/etc/ssl/certs" "$1/usr/share/doc/ca-certificates" "$1/run" "$1/var" "$1/home" "$1/root"
    chmod 0700 "$1/root"
    install -d -m 1777 "$1/tmp"
    ln -s /run "$1/var/run"
    # Debian's certificates, not those that this build was made to trust in addition.
    cat /usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"
    cp /usr/share/doc/ca-certificates/copyright "$1/usr/share/doc/ca-certificates"
    cp /etc/os-release "$1/etc"
    cat >"$1/etc/passwd" <<'END'
root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
END
    cat >"$1/etc/group" <<'END'
root:x:0:
nobody:x:65534:
nonroot:x:65532:
END
    # What glibc can do without loading a library.
    echo 'hosts: files dns' >"$1/etc/nsswitch.conf"
    install -d -m 0700 -o 65532 -g 65532 "$1/home/nonroot"
}

step=${1:?which step}
shift
case "$step" in
    licences | plain) "$step" "$@" ;;
    *) echo "files.sh: no step is called $step" >&2 && exit 1 ;;
esac
