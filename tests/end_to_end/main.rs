//! The built program, from outside: real time, real files, real sockets, and
//! real clients where it is about clients.

#[expect(dead_code, reason = "shared with the demo, which uses other parts of it")]
#[path = "../../examples/demo/cloud.rs"]
mod cloud;

mod bad_input;
mod crashes;
mod endpoint;
mod hard_places;
mod identities;
mod in_vain;
mod life;
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
