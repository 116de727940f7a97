// SPDX-License-Identifier: GPL-2.0

//! Data of a network namespace, with settings and a file under its `/proc/net`.
//!
//! C headers: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h),
//! [`include/linux/proc_fs.h`](srctree/include/linux/proc_fs.h)

use super::sysctl::{
    self,
    Setting,
    Value, //
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ptr::{
        addr_of,
        addr_of_mut,
        null_mut, //
    },
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    seq_file::SeqFile,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            AtomicFlag,
            Full,
            Relaxed,
            Release, //
        },
        rcu,
        Arc,
        ArcBorrow, //
    },
    types::Opaque, //
};

/// A network namespace.
///
/// # Invariants
///
/// The pointee is a network namespace that has sockets, or may have some.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

impl Net {
    /// Creates a reference from a pointer that C passes.
    ///
    /// # Safety
    ///
    /// `net` must point to a network namespace that has a socket, or may have one, during `'a`.
    #[inline]
    pub(super) unsafe fn from_raw<'a>(net: *const bindings::net) -> &'a Self {
        // SAFETY: By the caller's promise; the layouts are the same.
        // INVARIANT: So says the caller.
        unsafe { &*net.cast() }
    }

    /// Returns that of a socket.
    ///
    /// # Safety
    ///
    /// `sk` must point to a socket that stays during `'a`.
    #[inline]
    pub(super) unsafe fn of_sock<'a>(sk: *const bindings::sock) -> &'a Self {
        // SAFETY: By the caller's promise. A socket has a namespace, and keeps it. (`sock_net()` is
        // inline.)
        unsafe {
            #[cfg(CONFIG_NET_NS)]
            let net = (*sk).__sk_common.skc_net.net;
            #[cfg(not(CONFIG_NET_NS))]
            let net = {
                let _ = sk;
                addr_of!(bindings::init_net)
            };
            Self::from_raw(net)
        }
    }

    /// Returns whether somebody keeps the namespace. A socket of the kernel's may outlive that.
    #[inline]
    fn is_alive(&self) -> bool {
        #[cfg(CONFIG_NET_NS)]
        // SAFETY: By the type's invariant. As `check_net()`, which is inline.
        return unsafe {
            addr_of!((*self.as_ptr()).ns.__bindgen_anon_1.__ns_ref.refs.counter).read_volatile()
                != 0
        };
        #[cfg(not(CONFIG_NET_NS))]
        true
    }

    /// The minimal timeout in us that the module has in this namespace.
    #[inline]
    pub(crate) fn rto_min(&self) -> &Value {
        // SAFETY: By the type's invariant. Its writers are C code.
        unsafe { Value::from_raw(addr_of!((*self.as_ptr()).ipv4.sysctl_tcp_rto_min_hires_us)) }
    }

    /// The kernel's own: `net.ipv4.tcp_rto_min_us` where there is no module.
    pub(crate) fn kernel_rto_min(&self) -> &Value {
        // SAFETY: As above.
        unsafe { Value::from_raw(addr_of!((*self.as_ptr()).ipv4.sysctl_tcp_rto_min_us)) }
    }

    /// The kernel's `net.ipv4.tcp_pingpong_thresh`.
    #[inline]
    pub(super) fn pingpong_thresh(&self) -> u8 {
        // SAFETY: As above.
        unsafe { addr_of!((*self.as_ptr()).ipv4.sysctl_tcp_pingpong_thresh).read_volatile() }
    }

    /// The kernel's `net.ipv4.tcp_limit_output_bytes`. What is negative there is no limit.
    #[inline]
    pub(crate) fn limit_output_bytes(&self) -> &Value {
        // SAFETY: As above.
        unsafe {
            Value::from_raw(addr_of!(
                (*self.as_ptr()).ipv4.sysctl_tcp_limit_output_bytes
            ))
        }
    }

    /// Returns the C namespace.
    #[inline]
    pub(super) fn as_ptr(&self) -> *mut bindings::net {
        self.0.get()
    }
}

/// What each network namespace has one of. It may be dropped in softirq.
///
/// # Safety
///
/// [`Self::pernet`] must always return the same.
pub(crate) unsafe trait NetData: Send + Sync + Sized + 'static {
    /// The name of its file under `/proc/net`, which everybody may read.
    const FILE: &'static CStr;

    /// Its settings under `net.ipv4`.
    fn settings() -> &'static [Setting];

    /// The values of the settings, in the same order.
    fn values(&self) -> &[Value];

    /// Values of the kernel's that are to be seen as settings, too.
    fn aliases(net: &Net) -> impl Iterator<Item = (&'static Setting, &Value)>;

    /// The one static that keeps them.
    fn pernet() -> &'static PerNet<Self>;

    /// Makes that of a new namespace, or of one that has been there before. May sleep.
    fn new(net: &Net) -> Result<Arc<Self>>;

    /// The namespace goes, or nobody serves it any more. May sleep.
    fn leave(&self, net: &Net);

    /// Writes the contents of the file. May sleep.
    fn show(&self, m: &SeqFile);
}

/// What a namespace has for us: `live` for those who look it up, `owned` until the end, and the
/// settings that are in there.
#[repr(C)]
struct Slot<T> {
    live: *const T,
    owned: *const T,
    settings: *mut sysctl::Table,
}

/// The data of all namespaces.
///
/// # Invariants
///
/// Whoever has changed `is_taken` to `true` may use `ops`. Unless `id` is 0, each namespace that is alive
/// has a [`Slot`], of that number, or null while it is made; it has until a grace period after `id` has
/// become 0, or it is not alive any more.
pub(crate) struct PerNet<T> {
    is_taken: AtomicFlag,
    ops: Opaque<bindings::pernet_operations>,
    /// Where C keeps the number, and where it is to be looked up.
    given_id: UnsafeCell<c_uint>,
    id: Atomic<u32>,
    _data: PhantomData<T>,
}

// SAFETY: By the type's invariant, `ops` and `given_id` are used by one at a time.
unsafe impl<T: NetData> Sync for PerNet<T> {}

impl<T: NetData> PerNet<T> {
    /// Makes one that nothing is registered with yet.
    pub(crate) const fn new() -> Self {
        Self {
            is_taken: AtomicFlag::new(false),
            ops: Opaque::uninit(),
            given_id: UnsafeCell::new(0),
            // INVARIANT: It is 0.
            id: Atomic::new(0),
            _data: PhantomData,
        }
    }

    /// Makes the data of all namespaces, those that exist and those to come. Sleeps.
    ///
    /// # Errors
    ///
    /// `EBUSY` if that has been done; `ENOMEM`; what [`NetData::new`] returns.
    pub(crate) fn register() -> Result<Registration<T>> {
        let this = T::pernet();
        if this.is_taken.xchg(true, Full) {
            return Err(EBUSY);
        }
        let ops = bindings::pernet_operations {
            init: Some(Self::init),
            pre_exit: Some(Self::pre_exit),
            exit: Some(Self::exit),
            id: this.given_id.get(),
            size: core::mem::size_of::<Slot<T>>(),
            ..Default::default()
        };
        // SAFETY: By the type's invariant, and `'static` keeps it in place. The functions stay until
        // the registration is dropped.
        let registered = to_result(unsafe {
            this.ops.get().write(ops);
            bindings::register_pernet_subsys(this.ops.get())
        });
        if let Err(e) = registered {
            this.is_taken.store(false, Release);
            return Err(e);
        }
        // SAFETY: By the type's invariant.
        let id = unsafe { *this.given_id.get() };
        // INVARIANT: C has given each namespace one.
        this.id.store(id, Release);
        Ok(Registration(this))
    }

    /// Looks up the data of a namespace; none if that is about to go.
    #[inline]
    pub(crate) fn get<'a>(&self, net: &'a Net, _rcu: &'a rcu::Guard) -> Option<ArcBorrow<'a, T>> {
        // Pairs with `register()`: where the number is seen, so are the slots of that number.
        let id = self.id.load(Acquire);
        if id == 0 || !net.is_alive() {
            return None;
        }
        // SAFETY: By the type's invariant, and for what is alive within this critical section does not lose
        // its slot before the end of that. What is in `live`, which `init()` has released, is there until a
        // grace period after its removal.
        unsafe {
            let slot = Self::slot(id, net.as_ptr());
            // A namespace in the making has none yet.
            if slot.is_null() {
                return None;
            }
            let live = addr_of!((*slot).live).read_volatile();
            (!live.is_null()).then(|| ArcBorrow::from_raw(live))
        }
    }

    /// Returns that of a namespace.
    ///
    /// # Safety
    ///
    /// `net` must be valid, and have a slot of that number; this must be called within an RCU read-side
    /// critical section.
    #[inline]
    unsafe fn slot(id: u32, net: *mut bindings::net) -> *mut Slot<T> {
        // SAFETY: By the caller's promise. C has allocated `Slot<T>`, zeroed. As `net_generic()` does,
        // which is inline: what `gen` leads to is an array of pointers.
        unsafe {
            let slots = addr_of!((*net).gen).read_volatile().cast::<*mut c_void>();
            slots.add(id as usize).read().cast()
        }
    }

    /// As [`Self::slot`], for the functions that C calls.
    ///
    /// # Safety
    ///
    /// This must be called by C as one of `ops`, or for the file, with that namespace.
    unsafe fn own_slot(net: *mut bindings::net) -> *mut Slot<T> {
        let _rcu = rcu::read_lock();
        // SAFETY: By the caller's promise, C has written the number, and allocated the slot, which stays.
        unsafe { Self::slot(*T::pernet().given_id.get(), net) }
    }

    /// Makes the data of a new namespace.
    ///
    /// # Safety
    ///
    /// Called by the namespace code, in the order of a namespace's life.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        kernel::error::from_result(|| {
            // SAFETY: C calls this with a namespace that may have sockets.
            let this = unsafe { Net::from_raw(net) };
            let data = T::new(this)?;
            let values = T::settings().iter().zip(data.values());
            let aliases = T::aliases(this);
            let all = Iterator::chain(values, aliases);
            // SAFETY: `exit()` drops the table before the data, and so does an error here.
            let settings = unsafe { sysctl::Table::register(net, all) }?;
            let settings = KBox::new(settings, GFP_KERNEL_ACCOUNT)?;
            // SAFETY: C calls this with a namespace whose slot is zeroed: nobody finds anything there yet.
            unsafe {
                let slot = Self::own_slot(net);
                // Whoever opens the file finds it.
                (*slot).owned = Arc::as_ptr(&data);
                let file = bindings::proc_create_net_single(
                    T::FILE.as_char_ptr(),
                    0o444,
                    (*net).proc_net,
                    Some(Self::show),
                    null_mut(),
                );
                if file.is_null() {
                    return Err(ENOMEM);
                }
                (*slot).settings = KBox::into_raw(settings);
                // For `get()`, which finds it by this address.
                let live = Atomic::from_ptr(addr_of_mut!((*slot).live).cast::<*mut c_void>());
                live.store(Arc::into_raw(data).cast_mut().cast(), Release);
            }
            Ok(0)
        })
    }

    /// Hides the data of a namespace that is about to go.
    ///
    /// # Safety
    ///
    /// Called by the namespace code, in the order of a namespace's life.
    unsafe extern "C" fn pre_exit(net: *mut bindings::net) {
        // SAFETY: C calls this with a namespace that `init()` has seen. A grace period follows.
        unsafe {
            addr_of_mut!((*Self::own_slot(net)).live).write_volatile(core::ptr::null());
        }
    }

    /// Drops the data of a namespace.
    ///
    /// # Safety
    ///
    /// Called by the namespace code, in the order of a namespace's life.
    unsafe extern "C" fn exit(net: *mut bindings::net) {
        // SAFETY: C calls this after `pre_exit()` and a grace period. Removing the file waits
        // for its readers.
        unsafe {
            bindings::remove_proc_entry(T::FILE.as_char_ptr(), (*net).proc_net);
            let slot = Self::own_slot(net);
            drop(KBox::from_raw((*slot).settings));
            (*(*slot).owned).leave(Net::from_raw(net));
            drop(Arc::from_raw((*slot).owned));
        }
    }

    /// Shows the data of the namespace whose file is read.
    ///
    /// # Safety
    ///
    /// Called by the file system, with a file that [`Self::init`] made.
    unsafe extern "C" fn show(m: *mut bindings::seq_file, _v: *mut c_void) -> c_int {
        // SAFETY: C calls this for a file of `init()`, which is gone before `owned` is.
        unsafe {
            // As `seq_file_single_net()`, which is inline.
            #[cfg(CONFIG_NET_NS)]
            let net = (*m).private.cast();
            #[cfg(not(CONFIG_NET_NS))]
            let net = addr_of_mut!(bindings::init_net);
            (*(*Self::own_slot(net)).owned).show(SeqFile::from_raw(m));
        }
        0
    }
}

/// Keeps the data of all namespaces; they go with it, which sleeps.
#[must_use]
pub(crate) struct Registration<T: NetData>(&'static PerNet<T>);

impl<T: NetData> Drop for Registration<T> {
    fn drop(&mut self) {
        // INVARIANT: The slots go after the grace period that lies between `pre_exit()` and `exit()`.
        self.0.id.store(0, Relaxed);
        // SAFETY: `PerNet::register()` has registered it.
        unsafe { bindings::unregister_pernet_subsys(self.0.ops.get()) };
        self.0.is_taken.store(false, Release);
    }
}
