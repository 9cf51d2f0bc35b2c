//! A connect through io_uring: the kernel does it without the system call of that name.
#![expect(unsafe_code, reason = "the rings are memory shared with the kernel")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{SockAddr, Socket};

const IORING_OP_CONNECT: u8 = 16;
const IORING_ENTER_GETEVENTS: u32 = 1;
const OFF_SQ_RING: libc::off_t = 0;
const OFF_CQ_RING: libc::off_t = 0x0800_0000;
const OFF_SQES: libc::off_t = 0x1000_0000;
/// Bytes mapped of each ring: a ring of one entry is far smaller than a page.
const RING_BYTES: usize = 4096;

/// `struct io_uring_params` (include/uapi/linux/io_uring.h).
#[repr(C)]
#[derive(Default)]
struct Parameters {
    /// Entries, flags, features, …
    head: [u32; 10],
    /// head, tail, ring_mask, ring_entries, flags, dropped, array, reserved.
    sq: [u32; 8],
    sq_address: u64,
    /// head, tail, ring_mask, ring_entries, overflow, cqes, flags, reserved.
    cq: [u32; 8],
    cq_address: u64,
}

/// `struct io_uring_sqe`, with the fields of a connect.
#[repr(C)]
#[derive(Default)]
struct Submission {
    operation: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    address_length: u64,
    address: u64,
    rest: [u64; 5],
}

/// Connects; blocks until the kernel says how it went.
pub(crate) fn connect(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    let mut parameters = Parameters::default();
    // SAFETY: the parameters live until the call returns; the result is a new descriptor.
    let ring = unsafe {
        let result = libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut parameters);
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(i32::try_from(result).map_err(io::Error::other)?)
    };
    let submissions = Mapping::new(&ring, OFF_SQ_RING)?;
    let completions = Mapping::new(&ring, OFF_CQ_RING)?;
    let entries = Mapping::new(&ring, OFF_SQES)?;
    let entry = Submission {
        operation: IORING_OP_CONNECT,
        fd: socket.as_raw_fd(),
        address_length: address.len().into(),
        address: u64::try_from(address.as_ptr().addr()).map_err(io::Error::other)?,
        ..Submission::default()
    };
    // SAFETY: one entry of each ring exists, and nobody else uses this ring.
    unsafe {
        ptr::write(entries.at(0)?, entry);
        ptr::write(submissions.at::<u32>(parameters.sq[6])?, 0);
        (*submissions.at::<AtomicU32>(parameters.sq[1])?).store(1, Ordering::Release);
    }
    // SAFETY: no pointers but the null signal mask.
    let entered = unsafe {
        let (fd, flags) = (ring.as_raw_fd(), IORING_ENTER_GETEVENTS);
        libc::syscall(libc::SYS_io_uring_enter, fd, 1, 1, flags, ptr::null::<u8>(), 0)
    };
    if entered < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `enter` returned after one completion; its result is the second half of
    // `struct io_uring_cqe`, after eight bytes of user data.
    let result = unsafe { ptr::read_volatile(completions.at::<i32>(parameters.cq[5] + 8)?) };
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// A page of a ring.
struct Mapping(*mut u8);

impl Mapping {
    fn new(ring: &OwnedFd, offset: libc::off_t) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), RING_BYTES, protection, flags, ring.as_raw_fd(), offset)
        };
        if start == libc::MAP_FAILED {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self(start.cast()))
        }
    }

    /// What lies at an offset that the kernel gave.
    fn at<T>(&self, offset: u32) -> io::Result<*mut T> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        if offset + size_of::<T>() > RING_BYTES {
            return Err(io::Error::other("a ring is larger than expected"));
        }
        // SAFETY: within the mapping, as was just checked; the kernel aligns what it puts there.
        Ok(unsafe { self.0.add(offset) }.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nobody uses any more.
        unsafe { libc::munmap(self.0.cast(), RING_BYTES) };
    }
}
