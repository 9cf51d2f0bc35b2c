//! The few `bpf(2)` commands that `aya` does not offer in the form capture needs: pins, links that are
//! updated in place, typed map access by pin.
//!
//! Every file descriptor is owned by the value that it was returned in. Keys and values are `Plain`, so
//! their bytes may cross the boundary. Errors are the kernel's, named by the caller.
#![expect(unsafe_code, reason = "bpf(2) takes pointers; each call has its SAFETY comment")]

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    mem::{MaybeUninit, size_of},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use ebpf_abi::Plain;

/// Commands of `bpf(2)` (include/uapi/linux/bpf.h).
#[derive(Clone, Copy)]
enum Command {
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ObjInfo = 15,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkDetach = 34,
}

/// Program types (`enum bpf_prog_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgramType {
    SockOps = 13,
    CgroupSockAddr = 18,
    CgroupSockopt = 25,
    SkLookup = 30,
}

/// Attach types (`enum bpf_attach_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttachType {
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    Sendmsg4 = 14,
    Sendmsg6 = 15,
    Recvmsg4 = 19,
    Recvmsg6 = 20,
    Setsockopt = 22,
    Getpeername4 = 29,
    Getpeername6 = 30,
    SkLookup = 36,
}

/// What an update may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Update {
    /// Insert or replace.
    Any = 0,
    /// Insert; `EEXIST` when the key is there.
    Insert = 1,
}

/// One instruction of a hand-assembled program (probes need no ELF file).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// `code` as in Documentation/bpf/standardization/instruction-set.rst; registers 0 to 10.
    pub const fn new(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Self {
        Self { code, registers: (src << 4) | (dst & 0x0f), offset, immediate }
    }

    /// `dst = immediate`.
    pub const fn mov(dst: u8, immediate: i32) -> Self {
        Self::new(0xb7, dst, 0, 0, immediate)
    }

    /// Calls a helper by its number.
    pub const fn call(helper: i32) -> Self {
        Self::new(0x85, 0, 0, 0, helper)
    }

    /// Returns r0.
    pub const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }
}

/// A refused program: the kernel's error and the verifier's words.
#[derive(Debug, thiserror::Error)]
#[error("{log}")]
pub struct Refused {
    pub source: io::Error,
    pub log: String,
}

/// What a link is attached to, as the kernel tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkInfo {
    pub id: u32,
    pub program: u32,
    pub target: LinkTarget,
}

/// Target of a link. Zero means that the target is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkTarget {
    Cgroup { id: u64 },
    Netns { inode: u32 },
    Other { link_type: u32 },
}

impl LinkTarget {
    /// Whether nothing is hooked: the target has gone, or somebody took the link off.
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Cgroup { id: 0 } | Self::Netns { inode: 0 })
    }
}

/// What a map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapInfo {
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
}

/// Runs one command. `attr` is a zero-padded prefix of `union bpf_attr`.
fn bpf<A>(command: Command, attr: &mut A) -> io::Result<RawFd> {
    #[expect(clippy::as_conversions, reason = "discriminants are the kernel's numbers")]
    let number = command as libc::c_long;
    // SAFETY: `attr` is an initialised `repr(C)` prefix of `union bpf_attr` of the size given; the
    // pointers in it live until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, number, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

/// Like [`bpf`] for a command that returns a new file descriptor.
fn bpf_fd<A>(command: Command, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel returned a new descriptor (close-on-exec) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

fn address<T>(value: *const T) -> u64 {
    u64::try_from(value.addr()).expect("pointers have at most 64 bits")
}

fn size<T>() -> u32 {
    u32::try_from(size_of::<T>()).expect("structs passed to the kernel are small")
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens a pinned map, program or link.
pub fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf_fd(Command::ObjGet, &mut ObjAttr { path: address(path.as_ptr()), ..ObjAttr::default() })
}

/// Pins a map, program or link. `EEXIST` when the path is taken.
pub fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { path: address(path.as_ptr()), fd: number(object.as_fd()), flags: 0 };
    bpf(Command::ObjPin, &mut attr).map(drop)
}

/// Attaches `program` to a cgroup or network namespace. Flags are zero: several programs may then be
/// attached to a cgroup, the child's run before its parent's.
pub fn link_create(
    program: impl AsFd,
    target: impl AsFd,
    attach: AttachType,
) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: u32,
        target: u32,
        attach: u32,
        flags: u32,
    }
    #[expect(clippy::as_conversions, reason = "discriminants are the kernel's numbers")]
    let attach = attach as u32;
    let mut attr =
        Attr { program: number(program.as_fd()), target: number(target.as_fd()), attach, flags: 0 };
    bpf_fd(Command::LinkCreate, &mut attr)
}

/// Replaces the program of a link without a gap. `ENOLINK` when the link's target is gone.
pub fn link_update(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let mut attr = Attr {
        link: number(link.as_fd()),
        program: number(program.as_fd()),
        flags: 0,
        old_program: 0,
    };
    bpf(Command::LinkUpdate, &mut attr).map(drop)
}

/// Detaches a link at once, whoever else holds it.
pub fn link_detach(link: impl AsFd) -> io::Result<()> {
    let mut fd = number(link.as_fd());
    bpf(Command::LinkDetach, &mut fd).map(drop)
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// Reads what a link is attached to.
pub fn link_info(link: impl AsFd) -> io::Result<LinkInfo> {
    /// `BPF_LINK_TYPE_CGROUP` and `BPF_LINK_TYPE_NETNS`.
    const CGROUP: u32 = 3;
    const NETNS: u32 = 5;
    /// Start of `struct bpf_link_info`; the union begins at its 8-byte alignment.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        link_type: u32,
        id: u32,
        program: u32,
        padding: u32,
        /// A cgroup id, or a netns inode in the first half.
        target: [u32; 2],
        attach: u32,
        end: u32,
    }
    let mut info = Info::default();
    let mut attr =
        InfoAttr { fd: number(link.as_fd()), length: size::<Info>(), info: address(&raw mut info) };
    bpf(Command::ObjInfo, &mut attr)?;
    let [low, high] = info.target.map(u32::to_ne_bytes);
    let target = match info.link_type {
        CGROUP => {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&low);
            bytes[4..].copy_from_slice(&high);
            LinkTarget::Cgroup { id: u64::from_ne_bytes(bytes) }
        }
        NETNS => LinkTarget::Netns { inode: info.target[0] },
        link_type => LinkTarget::Other { link_type },
    };
    Ok(LinkInfo { id: info.id, program: info.program, target })
}

/// Loads a hand-assembled program.
pub fn load(
    program: ProgramType,
    attach: AttachType,
    instructions: &[Instruction],
) -> Result<OwnedFd, Refused> {
    /// Start of the `BPF_PROG_LOAD` attributes, up to `expected_attach_type`.
    #[repr(C)]
    struct Attr {
        program: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach: u32,
    }
    let mut log = vec![0u8; 4096];
    #[expect(clippy::as_conversions, reason = "discriminants are the kernel's numbers")]
    let (program, attach) = (program as u32, attach as u32);
    let mut attr = Attr {
        program,
        count: u32::try_from(instructions.len()).expect("probes are short"),
        instructions: address(instructions.as_ptr()),
        license: address(c"Apache-2.0".as_ptr()),
        log_level: 1,
        log_size: u32::try_from(log.len()).expect("a page"),
        log: address(log.as_mut_ptr()),
        kernel_version: 0,
        flags: 0,
        name: *b"warren_probe\0\0\0\0",
        ifindex: 0,
        attach,
    };
    bpf_fd(Command::ProgLoad, &mut attr).map_err(|source| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]).trim().to_owned();
        Refused { source, log }
    })
}

/// A map by its file descriptor, with the types of its keys and values. Outer maps have the value
/// `u32`: a descriptor when written, the inner map's id when read. So have SOCKMAPs.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    types: PhantomData<fn(K) -> V>,
}

#[repr(C)]
struct ElementAttr {
    map: u32,
    padding: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Takes a map whose key and value sizes are those of `K` and `V`.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let info = map_info(&fd)?;
        if (info.key_size, info.value_size) != (size::<K>(), size::<V>()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "map has keys of {} and values of {} bytes instead of {} and {}",
                    info.key_size,
                    info.value_size,
                    size::<K>(),
                    size::<V>()
                ),
            ));
        }
        Ok(Self { fd, types: PhantomData })
    }

    /// Opens a pinned map.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(get(path)?)
    }

    /// The kernel's id of the map.
    pub fn id(&self) -> io::Result<u32> {
        Ok(map_info(&self.fd)?.id)
    }

    /// Reads an entry.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = MaybeUninit::<V>::uninit();
        let mut attr = self.attr(key, value.as_mut_ptr(), 0);
        match bpf(Command::MapLookup, &mut attr) {
            // SAFETY: the kernel filled all of it; `V` is Plain, so any bytes are a value.
            Ok(_) => Ok(Some(unsafe { value.assume_init() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes an entry.
    pub fn set(&self, key: &K, value: &V, update: Update) -> io::Result<()> {
        #[expect(clippy::as_conversions, reason = "discriminants are the kernel's numbers")]
        let flags = update as u64;
        let mut attr = self.attr(key, value, flags);
        bpf(Command::MapUpdate, &mut attr).map(drop)
    }

    /// Deletes an entry; `false` when there was none.
    pub fn delete(&self, key: &K) -> io::Result<bool> {
        let mut attr = self.attr(key, std::ptr::null::<V>(), 0);
        match bpf(Command::MapDelete, &mut attr) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the keys. With concurrent writers it is a sample: keys may be missing or twice, and it
    /// ends after as many as the map can hold.
    pub fn keys(&self) -> io::Result<Vec<K>> {
        let most = usize::try_from(map_info(&self.fd)?.max_entries).unwrap_or(usize::MAX);
        let mut keys: Vec<K> = Vec::new();
        while keys.len() < most {
            let mut next = MaybeUninit::<K>::uninit();
            let last = keys.last().map_or(std::ptr::null(), std::ptr::from_ref);
            let mut attr = ElementAttr {
                map: number(self.fd.as_fd()),
                padding: 0,
                key: address(last),
                value: address(next.as_mut_ptr()),
                flags: 0,
            };
            match bpf(Command::MapNextKey, &mut attr) {
                // SAFETY: the kernel filled all of it; `K` is Plain.
                Ok(_) => keys.push(unsafe { next.assume_init() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(keys)
    }

    fn attr(&self, key: &K, value: *const V, flags: u64) -> ElementAttr {
        ElementAttr {
            map: number(self.fd.as_fd()),
            padding: 0,
            key: address(key),
            value: address(value),
            flags,
        }
    }
}

impl Map<u32, u64> {
    /// Reads an element of an array per CPU and adds it up. `cpus` is the number of *possible* CPUs.
    pub fn sum(&self, index: u32, cpus: usize) -> io::Result<u64> {
        let mut values = vec![0u64; cpus];
        let mut attr = self.attr(&index, values.as_mut_ptr(), 0);
        bpf(Command::MapLookup, &mut attr)?;
        Ok(values.iter().fold(0, |sum, value| sum.wrapping_add(*value)))
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads what a map is.
pub fn map_info(map: impl AsFd) -> io::Result<MapInfo> {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        map_type: u32,
        id: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    let mut info = Info::default();
    let mut attr =
        InfoAttr { fd: number(map.as_fd()), length: size::<Info>(), info: address(&raw mut info) };
    bpf(Command::ObjInfo, &mut attr)?;
    Ok(MapInfo {
        id: info.id,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
    })
}

/// The number of an open descriptor, as values of outer maps and SOCKMAPs carry it. It is good for as
/// long as the descriptor is open.
pub fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    number(fd)
}
