//! Values that may cross the kernel boundary as bytes.

/// A type without padding, pointers or invalid bit patterns, `repr(C)` or `repr(transparent)`.
///
/// # Safety
///
/// Every byte of the value is initialised, and every bit pattern is a valid value.
#[expect(unsafe_code, reason = "marks what may be copied to and from the kernel as bytes")]
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($name:ty: $size:literal),+ $(,)?) => {
        $(
            // SAFETY: integers, or `repr(C)` structs of integers whose sizes add up to the size
            // asserted here, hence without padding.
            #[expect(unsafe_code, reason = "see Plain")]
            unsafe impl Plain for $name {}
            const _: () = assert!(core::mem::size_of::<$name>() == $size);
        )+
    };
}

plain! {
    u32: 4,
    u64: 8,
    crate::Address: 16,
    crate::TupleKey: 36,
    crate::Tuple: 32,
    crate::PrefixKey: 20,
    crate::PrefixFlags: 4,
    crate::Settings: 104,
    crate::Roles: 32,
    crate::SocketRole: 24,
    crate::dns::ResolverKey: 16,
}
