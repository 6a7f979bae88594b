#!/usr/bin/env bash
# Builds the image on a machine that cannot pull, out of what Debian's mirror and crates.io have.
#
#   dist/image/build.sh -t freshcreds                    arguments go to `docker build`
#   BASES=public dist/image/build.sh -t freshcreds       with the public base images, as `docker build .` does
#
# The builder is then a Debian of the machine's own release, from the machine's own sources, made once and
# kept in the engine (`docker image rm freshcreds-builder` for a new one), and the image has the base that the
# Dockerfile calls `plain`. Needs BuildKit, and mmdebstrap for the builder.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'image: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

# --- A client that can speak to BuildKit ------------------------------------------------------------

# Up to 22 every client can; later ones need a plugin, which is not always there. One machine may have both.
find_client() {
    local candidate
    while read -r candidate; do
        if DOCKER_BUILDKIT=1 "$candidate" build --help 2>/dev/null | grep -q -- --secret; then
            echo "$candidate"
            return
        fi
    done < <(type -ap docker)
    fail "no docker here can build with BuildKit: install the buildx plugin, or Debian's docker.io"
}
docker=$(find_client)
export DOCKER_BUILDKIT=1

# --- The builder ------------------------------------------------------------------------------------

# Enough to compile for both platforms. Debian calls the Rust that follows upstream rustc-web.
packages=(
    ca-certificates gcc libc6-dev rustc-web cargo-web
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross libstd-rust-web-dev:arm64
)

debian_sources() {
    # What apt knows to be Debian's own: a mirror, if this machine has one, and nobody else's packages.
    # shellcheck disable=SC2016 # the names are apt's
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' | sort -u
}

make_builder() {
    local sources release scratch
    command -v mmdebstrap >/dev/null || fail "mmdebstrap is missing, which makes the builder: install it, or say BASES=public"
    sources=$(debian_sources)
    [ -n "$sources" ] || fail "apt knows no Debian mirror yet: run apt-get update"
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064 # this folder
    trap "rm -rf '$scratch'" EXIT
    say "making a builder: $1"
    # shellcheck source=/dev/null
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mmdebstrap --quiet --variant=apt --architectures=amd64,arm64 --include="$(IFS=, && echo "${packages[*]}")" \
        "$release" "$scratch/builder.tar" - <<<"$sources" >&2
    "$docker" import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        "$scratch/builder.tar" "$1" >/dev/null
    rm -rf "$scratch"
}

arguments=()
case "${BASES:-local}" in
    public) ;;
    local)
        # Named after what is in it, so that another list makes another one.
        builder=freshcreds-builder:$(sha256sum <<<"${packages[*]}" | cut -c1-12)
        "$docker" image inspect "$builder" >/dev/null 2>&1 || make_builder "$builder"
        arguments+=(--build-arg "BUILDER=$builder" --build-arg RUNTIME=plain)
        ;;
    *) fail "BASES is local or public, not $BASES" ;;
esac

# --- What is not in the Dockerfile ------------------------------------------------------------------

# The build trusts whom this machine trusts, as where a network looks into TLS. It is a secret for the
# sake of how BuildKit treats one: it is there in a step and gets into no layer.
trusted=/etc/ssl/certs/ca-certificates.crt
if [ -e "$trusted" ]; then arguments+=(--secret "id=trusted,src=$trusted"); fi

# An engine without a network for containers still has the machine's.
if [ -z "$("$docker" network ls --quiet --filter driver=bridge)" ]; then arguments+=(--network host); fi

# From the commit, not from now: the same commit gives the same labels.
if revision=$(git describe --always --abbrev=40 --exclude='*' --dirty 2>/dev/null); then
    created=$(TZ=UTC git show --no-patch --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ)
    arguments+=(--build-arg "REVISION=$revision" --build-arg "CREATED=$created")
fi
# Only an address that the world can read says where the sources are.
if source=$(git config remote.origin.url) && [[ "$source" == https://* ]]; then
    arguments+=(--build-arg "SOURCE=${source%.git}")
fi

exec "$docker" build "${arguments[@]}" "$@" .
