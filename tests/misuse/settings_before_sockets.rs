// src/finetcp.rs: error[E0616]
// The settings go while sockets are served that look at them.
#[allow(dead_code)]
fn misuse(backend: ext::tcp_hires::Registration<timer::HiresTimers>) {
    drop(backend._namespaces);
}
