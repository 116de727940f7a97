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
/// The pointee is a network namespace that has sockets.
#[repr(transparent)]
pub(crate) struct Net(Opaque<bindings::net>);

impl Net {
    /// Creates a reference from a pointer that C passes.
    ///
    /// # Safety
    ///
    /// `net` must point to a network namespace that has a socket during `'a`.
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

/// What each network namespace has one of.
pub(crate) trait NetData: Send + Sync + Sized + 'static {
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
pub(crate) struct PerNet<T> {
    ops: Opaque<bindings::pernet_operations>,
    id: UnsafeCell<c_uint>,
    _data: PhantomData<T>,
}

// SAFETY: `ops` and `id` are written by `register()` and by C, before anybody else reads them.
unsafe impl<T: NetData> Sync for PerNet<T> {}

impl<T: NetData> PerNet<T> {
    /// Makes one that nothing is registered with yet.
    pub(crate) const fn new() -> Self {
        Self {
            ops: Opaque::uninit(),
            id: UnsafeCell::new(0),
            _data: PhantomData,
        }
    }

    /// Makes the data of all namespaces, those that exist and those to come. Sleeps.
    ///
    /// # Safety
    ///
    /// Must be called once only, and [`Self::get`] only while the registration lives.
    pub(crate) unsafe fn register(&'static self) -> Result<Registration<T>> {
        let ops = bindings::pernet_operations {
            init: Some(Self::init),
            pre_exit: Some(Self::pre_exit),
            exit: Some(Self::exit),
            id: self.id.get(),
            size: core::mem::size_of::<Slot<T>>(),
            ..Default::default()
        };
        // SAFETY: Nobody uses it yet, and `'static` keeps it in place. The functions stay until
        // the registration is dropped.
        to_result(unsafe {
            self.ops.get().write(ops);
            bindings::register_pernet_subsys(self.ops.get())
        })?;
        Ok(Registration(self))
    }

    /// Looks up the data of a namespace; none if that is about to go.
    pub(crate) fn get(&self, net: &Net) -> Option<Arc<T>> {
        let _guard = rcu::read_lock();
        // SAFETY: See `register()`. What is in `live` is alive until a grace period after its
        // removal.
        unsafe {
            let live = addr_of_mut!((*self.slot(net.as_ptr())).live).read_volatile();
            (!live.is_null()).then(|| ArcBorrow::from_raw(live).into())
        }
    }

    /// # Safety
    ///
    /// `net` must be valid, and the data registered.
    unsafe fn slot(&self, net: *mut bindings::net) -> *mut Slot<T> {
        let _guard = rcu::read_lock();
        // SAFETY: By the caller's promise. C has set the id and allocated `Slot<T>`, zeroed. As
        // `net_generic()` does, which is inline: what `gen` leads to is an array of pointers.
        unsafe {
            let slots = addr_of!((*net).gen).read_volatile().cast::<*mut c_void>();
            slots.add(*self.id.get() as usize).read().cast()
        }
    }

    /// Makes the data of a new namespace.
    ///
    /// # Safety
    ///
    /// Called by the namespace code, in the order of a namespace's life.
    unsafe extern "C" fn init(net: *mut bindings::net) -> c_int {
        kernel::error::from_result(|| {
            // SAFETY: C calls this with a namespace that will have sockets.
            let this = unsafe { Net::from_raw(net) };
            let data = T::new(this)?;
            let values = T::settings().iter().zip(data.values());
            let aliases = T::aliases(this);
            let all = Iterator::chain(values, aliases);
            // SAFETY: `exit()` drops the table before the data, and so does an error here.
            let settings = unsafe { sysctl::Table::register(net, all) }?;
            let settings = KBox::new(settings, GFP_KERNEL_ACCOUNT)?;
            // SAFETY: C calls this with a new namespace that nobody else knows yet.
            unsafe {
                let slot = T::pernet().slot(net);
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
                addr_of_mut!((*slot).live).write_volatile(Arc::into_raw(data));
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
            addr_of_mut!((*T::pernet().slot(net)).live).write_volatile(core::ptr::null());
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
            let slot = T::pernet().slot(net);
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
            (*(*T::pernet().slot(net)).owned).show(SeqFile::from_raw(m));
        }
        0
    }
}

/// Keeps the data of all namespaces; they go with it.
pub(crate) struct Registration<T: NetData>(&'static PerNet<T>);

impl<T: NetData> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: `PerNet::register()` has registered it.
        unsafe { bindings::unregister_pernet_subsys(self.0.ops.get()) }
    }
}
