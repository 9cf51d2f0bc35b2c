//! A whole request: telemetry headers never refuse one, whatever they hold.
#![no_main]

use hbone::{Authority, ConnectHead};

libfuzzer_sys::fuzz_target!(|parts: (&str, &str, &[u8])| {
    let (method, authority, header) = parts;
    let head = ConnectHead::read(method, Some(authority), |_| Some(header));
    let valid = method == hbone::METHOD && Authority::parse(authority).is_ok();
    assert_eq!(head.is_ok(), valid);
    if let Ok(head) = head {
        let headers = head.headers();
        let look = |name: &str| {
            headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes())
        };
        let again = ConnectHead::read(method, Some(authority), look);
        assert_eq!(again.map(|head| head.headers()), Ok(headers.clone()));
    }
});
