#!/bin/sh
# Compiles freshcreds in the image's builder, for the platform that BuildKit names in TARGETARCH. The
# Dockerfile calls it once for each layer:
#
#   compile.sh toolchain       installs what the builder lacks for that platform
#   compile.sh dependencies    compiles every crate but ours; needs no source of ours
#   compile.sh static FILE     the program, with the C library in it
#   compile.sh dynamic FILE    the program, for a system that brings the C library
set -eu

fail() {
    echo "compile.sh: $*" >&2
    exit 1
}

case "${TARGETARCH:?is set by BuildKit: build with DOCKER_BUILDKIT=1}" in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) fail "no compiler is known for the platform $TARGETARCH" ;;
esac
target=$machine-unknown-linux-gnu
compiler=$machine-linux-gnu-gcc

# The same place in every builder, which is half of what makes two of them give the same bytes.
export CARGO_HOME=/usr/local/cargo
# For whatever would put the time of the build into what it builds.
export SOURCE_DATE_EPOCH=0

# cargo for the target, which is always named: then nothing that only runs in the build, such as a macro,
# is compiled with these flags. The paths of the builder are kept out of messages and panics.
cargo_for_target() {
    name=$(echo "$target" | tr a-z- A-Z_)
    command=$1
    shift
    env "CARGO_TARGET_${name}_LINKER=$compiler" \
        "CARGO_TARGET_${name}_RUSTFLAGS=--remap-path-prefix=$CARGO_HOME/registry/src=/crates --remap-path-prefix=$PWD=/freshcreds" \
        "CC_$(echo "$target" | tr - _)=$compiler" \
        cargo "$command" --release --locked --target "$target" "$@"
}

toolchain() {
    if ! command -v "$compiler" >/dev/null; then
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends \
            "gcc-$(echo $machine | tr _ -)-linux-gnu" "libc6-dev-$TARGETARCH-cross"
        rm -rf /var/lib/apt/lists/*
    fi
    if ! [ -d "$(rustc --print target-libdir --target $target)" ]; then
        command -v rustup >/dev/null || fail "the builder's Rust cannot compile for $target"
        rustup target add $target
    fi
}

dependencies() {
    mkdir src
    echo '//! Nothing yet.' >src/lib.rs
    cargo_for_target build --lib
    # What was made of the empty source must not pass for ours: cargo goes by time stamps, and a checkout
    # may be older than this layer.
    cargo clean --release --locked --target "$target" --package freshcreds
    rm -r src
}

# Only the last step, linking, differs between the two. They share all that was compiled before.
static() {
    cargo_for_target rustc --bin freshcreds -- -C target-feature=+crt-static
    install -D -m 0755 "target/$target/release/freshcreds" "$1"
}
dynamic() {
    cargo_for_target build --bin freshcreds
    install -D -m 0755 "target/$target/release/freshcreds" "$1"
}

step=${1:?which step}
shift
case "$step" in
    toolchain | dependencies | static | dynamic) "$step" "$@" ;;
    *) fail "no step is called $step" ;;
esac
