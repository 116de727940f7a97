// src/timer.rs: error[E0603]
// The timers are taken from a socket while they are in use.
#[allow(dead_code)]
fn misuse(sk: LockedSockMut<'_>) {
    // SAFETY: There is none.
    unsafe { crate::ext::served::release::<HiresTimers>(sk) }
}
