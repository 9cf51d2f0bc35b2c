//! `forwarded`: what is read must be safe to send on, and mean the same.
#![no_main]

use hbone::Forwarded;

libfuzzer_sys::fuzz_target!(|header: &[u8]| {
    let forwarded = Forwarded::parse(header);
    let text = forwarded.to_string();
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!(Forwarded::parse(text.as_bytes()), forwarded);
});
