// src/timer.rs: error: lifetime may not live long enough
// The timers of a socket are kept beyond the time for which it is locked.
#[allow(dead_code)]
fn misuse(timer: LockedTimer<'_>) -> LockedTimer<'static> {
    timer
}
