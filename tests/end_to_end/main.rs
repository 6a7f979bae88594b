//! The built program, from outside: real time, real files, real sockets, and
//! real clients where it is about clients.

#[expect(dead_code, reason = "shared with the demo, which uses other parts of it")]
#[path = "../../examples/demo/cloud.rs"]
mod cloud;

mod bad_input;
mod crashes;
#[path = "../support/distribution.rs"]
mod distribution;
mod endpoint;
#[expect(dead_code, reason = "shared with the system tests, which use other parts of it")]
#[path = "../support/engine.rs"]
mod engine;
mod every_identity;
mod hard_places;
mod identities;
mod in_vain;
mod life;
#[path = "../support/machine.rs"]
mod machine;
mod monitoring;
mod readers;
mod reload;
mod schema;
mod settings;
mod shared_file;
mod terminal;
mod time;
mod truth;
