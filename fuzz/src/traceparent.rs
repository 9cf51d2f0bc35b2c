//! `traceparent`: nothing panics, and what is accepted means the same when written and read again.
#![no_main]

use hbone::Traceparent;

libfuzzer_sys::fuzz_target!(|header: &[u8]| {
    if let Some(parsed) = Traceparent::parse(header) {
        assert_eq!(Traceparent::parse(parsed.to_string().as_bytes()), Some(parsed));
        assert_eq!(parsed.trace_id().len(), 32);
    }
});
