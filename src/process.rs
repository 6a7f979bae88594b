//! Keeps the process's memory to itself: it has secrets in it.

use rustix::process::{Resource, Rlimit, setrlimit};

/// No core dump, and no other process of this user reads our memory. A system
/// that refuses has its reasons, and is no reason not to go on.
pub fn keep_memory_private() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};

        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
