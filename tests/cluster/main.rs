//! The built program and a cluster: the stand-in, whose answers were compared with those of a real
//! API server, or a real one by `KUBECONFIG=... make test-cluster`. What only the stand-in can do
//! is in `faults`.

#[expect(dead_code, reason = "shared with the demo, which uses other parts of it")]
#[path = "../../examples/demo/cloud.rs"]
mod cloud;
#[expect(dead_code, reason = "shared with other tests, which use other parts of it")]
#[path = "../support/machine.rs"]
mod machine;
#[expect(dead_code, reason = "shared with other tests, which use other parts of it")]
#[path = "../support/repository.rs"]
mod repository;
mod stage;
#[path = "../support/cluster/mod.rs"]
mod stand_in;

mod chart;
mod faults;
mod replicas;
mod rights;
mod secrets;
mod service_accounts;
