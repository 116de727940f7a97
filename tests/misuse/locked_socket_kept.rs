// src/timer.rs: error[E0521]
// A socket that is locked is known under that name for longer than it is locked.
#[allow(dead_code)]
fn misuse(a: &crate::ext::sock::SockRef, b: &crate::ext::sock::SockRef) {
    a.with_lock(|mut kept| {
        b.with_lock(|sk| kept = sk);
        kept.set_early_timeouts(0);
    });
}
