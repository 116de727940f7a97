// src/netns.rs: error[E0597]
// What a namespace has is used when it may be gone.
#[allow(dead_code)]
fn misuse(net: &Net) -> u32 {
    let found = {
        let rcu = kernel::sync::rcu::read_lock();
        NAMESPACES.get(net, &rcu)
    };
    found.map_or(0, |net| net.rto_init_us())
}
