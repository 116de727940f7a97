// src/timer.rs: error[E0599]
// Who only wants to know changes the socket.
#[allow(dead_code)]
fn misuse(sk: LockedSock<'_>) {
    sk.set_early_timeouts(0);
}
