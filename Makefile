# What a person, a test machine and .ci/run call. `make` alone lists it.

CARGO_DENY := 0.20.2
CARGO := cargo

.PHONY: help demo test setup check fmt clippy deny doc advisories bench bench-setup

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## run the daemon against a local stand-in cloud for half a minute; needs nothing but Rust
	$(CARGO) build --locked --bin freshcreds --example demo
	target/debug/examples/demo target/debug/freshcreds

test: setup ## install what the tests need, and run all of them
	$(CARGO) test --locked

setup: ## install the tools that the tests drive: registries, clients, helm, systemd
	tests/setup.sh

check: fmt clippy deny doc ## all that a reviewer should not have to say

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --locked --all-targets -- -D warnings

deny: # licences, bans and sources; needs no network once the tool is there
	@$(CARGO) deny --version 2>/dev/null | grep -qx 'cargo-deny $(CARGO_DENY)' \
		|| $(CARGO) install cargo-deny --version $(CARGO_DENY) --locked
	$(CARGO) deny --locked check bans licenses sources

doc:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

advisories: ## ask the RustSec database about every dependency; needs github.com
	$(CARGO) deny --locked check advisories

bench: bench-setup ## measure us beside the peers, in one run, as ratios
	$(CARGO) build --locked --release --bin freshcreds
	$(CARGO) build --locked --example demo
	python3 benches/compare.py

bench-setup:
	tests/setup.sh --bench
