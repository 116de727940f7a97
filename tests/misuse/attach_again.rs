// src/timer.rs: error[E0624]
// A socket gets timers, though it has some.
#[allow(dead_code)]
fn misuse(sk: LockedSockMut<'_>) -> bool {
    // SAFETY: There is none.
    unsafe { SOCKETS.attach(sk) }
}
