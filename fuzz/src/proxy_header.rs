//! The PROXY header: what is read must be written and read again as the same, and a header that is
//! cut short is never taken for a whole one.
#![no_main]

use hbone::{ProxyHeader, ProxyHeaderError};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok((header, len)) = ProxyHeader::decode(bytes) else { return };
    assert!(len <= bytes.len() && len <= hbone::PROXY_HEADER_MAX);
    let cut = ProxyHeader::decode(&bytes[..len - 1]);
    assert!(matches!(cut, Err(ProxyHeaderError::Incomplete(_))));
    let again = header.encode();
    assert_eq!(ProxyHeader::decode(&again), Ok((header, again.len())));
});
