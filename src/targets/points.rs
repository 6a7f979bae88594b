//! The places between two steps of a write, by name, where a test looks in or
//! pulls the plug. A program that is released has none of it.

/// Says that the step called `name` comes next.
#[cfg(not(any(test, feature = "crash-points")))]
pub(super) fn before(_: &'static str) {}

/// Says that the step called `name` comes next.
#[cfg(any(test, feature = "crash-points"))]
pub(super) fn before(name: &'static str) {
    #[cfg(test)]
    hook::call(name);
    #[cfg(feature = "crash-points")]
    crash::at(name);
}

/// Whether the program is to be taken for killed, so that nothing clears up.
#[cfg(not(test))]
pub(super) fn is_killed() -> bool {
    false
}

/// Whether the program is to be taken for killed, so that nothing clears up.
#[cfg(test)]
pub(super) fn is_killed() -> bool {
    hook::KILLED.get()
}

/// Lets a test act as another program between two steps of this thread.
#[cfg(test)]
pub(super) mod hook {
    use std::cell::{Cell, RefCell};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    type Hook = Box<dyn FnMut(&'static str)>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
        pub(super) static KILLED: Cell<bool> = const { Cell::new(false) };
    }

    /// Does `work`, and clears nothing up if it ends by a panic, as if the program had
    /// been killed. Says whether it was.
    pub(in crate::targets) fn killed_in(work: impl FnOnce()) -> bool {
        KILLED.set(true);
        let is_killed = catch_unwind(AssertUnwindSafe(work)).is_err();
        KILLED.set(false);
        HOOK.with_borrow_mut(|slot| *slot = None);
        is_killed
    }

    /// Runs `work` with `hook` called before each step.
    pub(in crate::targets) fn with<T>(
        hook: impl FnMut(&'static str) + 'static,
        work: impl FnOnce() -> T,
    ) -> T {
        HOOK.with_borrow_mut(|slot| *slot = Some(Box::new(hook)));
        let result = work();
        HOOK.with_borrow_mut(|slot| *slot = None);
        result
    }

    pub(super) fn call(name: &'static str) {
        // Taken out, since what it does may come by here itself.
        let Some(mut hook) = HOOK.with_borrow_mut(Option::take) else { return };
        hook(name);
        HOOK.with_borrow_mut(|slot| *slot = Some(hook));
    }
}

/// Kills the program, as a power cut would, where `FRESHCREDS_CRASH_AT` says, and stops
/// it where `FRESHCREDS_STOP_AT` says: `NAME` or `NAME:HOW_MANY_TIMES_TO_PASS_BY`.
#[cfg(feature = "crash-points")]
mod crash {
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, raise};

    static PASSED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

    pub(super) fn at(name: &'static str) {
        let ends =
            [("FRESHCREDS_STOP_AT", Signal::SIGSTOP), ("FRESHCREDS_CRASH_AT", Signal::SIGKILL)];
        for ((variable, signal), passed) in ends.into_iter().zip(&PASSED) {
            let Ok(wanted) = std::env::var(variable) else { continue };
            let (wanted, spare) = match wanted.split_once(':') {
                Some((wanted, spare)) => (wanted, spare.parse().unwrap_or_default()),
                None => (wanted.as_str(), 0),
            };
            if wanted == name && passed.fetch_add(1, Ordering::Relaxed) == spare {
                // To this thread: to the process it would come a little later, by way of
                // another thread.
                let _ = raise(signal);
            }
        }
    }
}
