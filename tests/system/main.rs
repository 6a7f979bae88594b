//! What is shipped around the program, run where its users run it: containers of a real docker engine,
//! machines whose first process is systemd. Root, and Debian's tools, are needed; what is missing fails.
//!
//! `make test-system` runs it; `cargo test` alone does not, since a release build is part of it.

#[path = "../support/booted.rs"]
mod booted;
#[expect(dead_code, reason = "shared with the demo and the other tests, which use other parts")]
#[path = "../../examples/demo/cloud.rs"]
mod cloud;
#[path = "../support/distribution.rs"]
mod distribution;
#[expect(dead_code, reason = "shared with the other end-to-end tests, which use other parts")]
#[path = "../support/engine.rs"]
mod engine;
#[expect(dead_code, reason = "shared with the other end-to-end tests, which use other parts")]
#[path = "../support/machine.rs"]
mod machine;

mod clients;
mod image;
mod package;
mod quick_starts;
mod recipes;
#[path = "../support/image.rs"]
mod shipped;
mod sidecar;
mod units;
