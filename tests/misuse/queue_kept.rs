// src/tsq.rs: error[E0597]
// A CPU's queue is used when it may be gone.
#[allow(dead_code)]
fn misuse() {
    let waiting = {
        let rcu = rcu::read_lock();
        WAITING.get(&rcu)
    };
    waiting.map(|waiting| waiting.schedule());
}
