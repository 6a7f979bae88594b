# What a person, a test machine and .ci/run call. `make` alone lists it.

CARGO_DENY := 0.20.2
CARGO_AUDIT := 0.22.2
CARGO_CYCLONEDX := 0.5.9
CARGO_FUZZ := 0.13.1
CARGO_DEB := 3.8.0
CARGO := cargo
BASES := local
# Whether `check` fails where the RustSec database cannot be had: `required`, or `if-reachable`.
ADVISORIES := required

# $(call tool,NAME,VERSION[,FLAGS]): installs cargo-NAME if this very version is not there. Some say their name, too.
tool = @$(CARGO) $(1) --version 2>/dev/null | grep -qE '(^| )$(subst .,\.,$(2))$$' \
	|| $(CARGO) install cargo-$(1) --version $(2) --locked --debug $(3)

.PHONY: help demo manual package test test-system image image-arm64 binaries reproducible stress simulate fleet fuzz test-cluster setup check fmt clippy deny doc advisories notices notices-check cargo-deny cargo-audit cargo-cyclonedx cargo-deb bench bench-setup

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## run the daemon against a local stand-in cloud for half a minute; needs nothing but Rust
	$(CARGO) build --locked --bin freshcreds
	$(CARGO) run --locked --example demo

manual: ## write anew what is generated: manual pages, completions, the chart's table of values and its copies
	FRESHCREDS_WRITE=1 $(CARGO) test --locked --test packaging -- the_manual_pages the_completions
	FRESHCREDS_WRITE=1 $(CARGO) test --locked --test chart -- every_value_is the_files_of_the_chart

# BINARY=FILE packs that program instead of building one.
package: cargo-deb ## the Debian package: target/debian/*.deb
ifdef BINARY
	install -D $(BINARY) target/package/release/freshcreds
	CARGO_TARGET_DIR=target/package $(CARGO) deb --no-build --strip --output target/debian/
else
	$(CARGO) deb --output target/debian/ -- --locked
endif

test: setup ## install what the tests need, and run all of them
	$(CARGO) test --locked --all-features

test-system: setup ## the image, the Debian package and the units, in a real engine and under a real systemd; needs root
	$(CARGO) test --locked --all-features --test system -- --test-threads 1

image: ## build the image out of Debian's mirror and crates.io; BASES=public: of the public base images
	BASES=$(BASES) dist/image/build.sh --tag freshcreds

image-arm64: setup ## cross-compile the image for arm64, and try its program in an emulator; needs root
	$(CARGO) test --locked --all-features --test system -- --test-threads 1 --nocapture --ignored arm64

binaries: ## the program for the image and the one for a package, as the image's builder compiles them
	BASES=$(BASES) dist/image/build.sh --target binaries --output target/binaries

reproducible: binaries ## compile both once more without any cache, and compare: the same bytes?
	rm -rf target/binaries.again
	BASES=$(BASES) dist/image/build.sh --no-cache --target binaries --output target/binaries.again
	cd target/binaries && sha256sum * | tee /dev/stderr | (cd ../binaries.again && sha256sum --check --strict)

stress: setup ## the same faults and races as the tests, for an hour: 10,000 kills, 1,000 logins, 100,000 conflicts
	FRESHCREDS_STRESS=1 PROPTEST_CASES=20000 $(CARGO) test --locked --all-features --lib -- --nocapture replace
	FRESHCREDS_STRESS=1 $(CARGO) test --locked --all-features --test end_to_end -- --nocapture --test-threads 2 \
		killed_at_random killed_before logins_of no_reader a_single_file a_disk_that_hangs

test-cluster: ## the cluster's suite against a real one, KUBECONFIG=FILE: makes namespaces of its own there, and removes them
	@test -n "$$KUBECONFIG" || { echo 'say which cluster: KUBECONFIG=FILE make test-cluster' >&2; exit 2; }
	FRESHCREDS_TEST_KUBECONFIG="$$KUBECONFIG" $(CARGO) test --locked --all-features --test cluster -- \
		--test-threads 4 --skip faults:: --skip stand_in::

simulate: ## 1,000 random years of simulated time against issuers and clocks that fail
	FRESHCREDS_YEARS=1000 $(CARGO) test --locked --release --test simulation -- --nocapture

fleet: ## ten thousand daemons against one quota: the figures, and the picture in docs/
	FRESHCREDS_DRAW=1 $(CARGO) test --locked --test fleet -- --nocapture

fuzz: ## ten minutes of any bytes for a config.json; needs a nightly compiler
	@$(CARGO) fuzz --version 2>/dev/null || $(CARGO) install cargo-fuzz --version $(CARGO_FUZZ) --locked
	mkdir -p fuzz/target/corpus
	$(CARGO) +nightly fuzz run document fuzz/target/corpus fuzz/corpus/document -- -max_total_time=600

setup: cargo-deny cargo-audit ## install the tools that the tests drive: registries, clients, helm, systemd
	tests/setup.sh

# The advisories come last, so that the last lines say if nothing is known of them.
check: fmt clippy deny doc notices-check advisories ## all that a reviewer should not have to say; without a network: ADVISORIES=if-reachable

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --locked --all-targets --test system --all-features -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings

deny: cargo-deny # licences, bans and sources; needs no network once the tool is there
	$(CARGO) deny --locked check bans licenses sources

doc:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

advisories: cargo-deny cargo-audit ## ask the RustSec database about every dependency; needs github.com
	.ci/advisories $(ADVISORIES)

notices: cargo-cyclonedx ## write the bill of materials and the licence texts anew, after a change of dependencies
	dist/notices/sbom.sh >dist/notices/freshcreds.cdx.json
	FRESHCREDS_WRITE=1 $(CARGO) test --locked --test notices -- the_licence_texts

# The texts are held against the crates' sources by `cargo test`, which needs no tool for it.
notices-check: cargo-cyclonedx
	dist/notices/sbom.sh | diff dist/notices/freshcreds.cdx.json - >&2 || { echo 'run `make notices`' >&2; exit 1; }

cargo-deb:
	$(call tool,deb,$(CARGO_DEB))

cargo-deny:
	$(call tool,deny,$(CARGO_DENY))

# Without reading compiled programs, which is most of what it would have to be built for.
cargo-audit:
	$(call tool,audit,$(CARGO_AUDIT),--no-default-features)

cargo-cyclonedx:
	$(call tool,cyclonedx,$(CARGO_CYCLONEDX))

bench: bench-setup ## measure us beside the peers, in one run, as ratios
	$(CARGO) build --locked --release --bin freshcreds --example large_file --example bare_endpoint --example many_namespaces
	$(CARGO) build --locked --example demo
	python3 benches/compare.py

bench-setup:
	tests/setup.sh --bench
