#!/usr/bin/env bash
# Prints the bill of materials of the program: every crate that is in it, as CycloneDX. `make notices` keeps it.
#
# cargo-cyclonedx goes by what all targets of the workspace ask for, tests included, and so names crates that are
# in no program that is shipped. `cargo tree` goes by what is built, and has the last word here. What differs from
# one run or one machine to the next is left out: time, serial number, folders.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v jq >/dev/null || { echo "sbom.sh: jq is missing: run \`make setup\`" >&2; exit 1; }
targets=(x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu)
# cargo-cyclonedx writes beside Cargo.toml, under a name of its own.
written=freshcreds_bin.cdx.json
crates=$(mktemp)
trap 'rm -f "$crates" "$written"' EXIT

cargo tree --locked --quiet --edges normal --prefix none --format '{p}' "${targets[@]/#/--target=}" |
    sed -E '/^$/d; s/ v([^ ]+).*/@\1/' | sort -u >"$crates"
# Of the two targets' crates none is for one alone; tests/notices.rs watches that.
cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --no-build-deps \
    --target "${targets[0]}" >&2

jq --rawfile crates "$crates" --arg targets "${targets[*]}" '
    ($crates | split("\n")) as $shipped
    | def shipped: IN($shipped[]);
    # A package is named by where it comes from, which for our own is a folder.
    def name: sub("^[^#]*#"; "");
    def own: if startswith("path+") then "pkg:cargo/" + name else . end;
    del(.serialNumber, .metadata.timestamp)
    | .metadata.component |= (.["bom-ref"] |= own | .purl |= sub("\\?.*"; ""))
    | .metadata.properties = [$targets | split(" ")[] | {name: "cdx:rustc:sbom:target:triple", value: .}]
    | .components |= (map(select("\(.name)@\(.version)" | shipped)) | sort_by(.["bom-ref"]))
    | .dependencies |= (map(select(.ref | name | shipped)
        | .ref |= own
        | if .dependsOn then .dependsOn |= (map(select(name | shipped)) | sort) else . end) | sort_by(.ref))
' "$written"
