//! `:authority`: what is accepted must mean the same when it is written and read again.
#![no_main]

use hbone::Authority;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(authority) = Authority::parse(text) {
        assert_ne!(authority.port(), 0);
        assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
    }
});
