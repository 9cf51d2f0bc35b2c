//! `baggage`: what is read must be safe to send on, and mean the same.
#![no_main]

use hbone::Baggage;

libfuzzer_sys::fuzz_target!(|header: &[u8]| {
    let text = Baggage::parse(header).encode();
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!(Baggage::parse(text.as_bytes()).encode(), text);
});
