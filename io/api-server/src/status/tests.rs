use super::*;

const FORBIDDEN: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure",
    "message":"pods is forbidden: User \"x\" cannot list","reason":"Forbidden","code":403}"#;

#[test]
fn a_status_is_read_and_anything_else_is_quoted() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let busy = r#"{"kind":"Status","reason":"TooManyRequests","message":"later","code":429,
        "details":{"retryAfterSeconds":7}}"#;
    let message = "pods is forbidden: User \"x\" cannot list";
    for (status, header, body, reason, said, retry_after) in [
        (403, None, FORBIDDEN, "Forbidden", message, None),
        (429, None, busy, "TooManyRequests", "later", seconds(7)),
        (429, Some("2"), busy, "TooManyRequests", "later", seconds(2)),
        (503, Some(" 3 "), "upstream\r\naway", "", "upstream  away", seconds(3)),
        (503, Some("Wed, 21 Oct 2015 07:28:00 GMT"), "", "", "", None),
        (500, None, r#"{"kind":"Pod"}"#, "", r#"{"kind":"Pod"}"#, None),
        (500, None, r#"{"kind":"Status","code":"x"}"#, "", r#"{"kind":"Status","code":"x"}"#, None),
        (500, None, r#"{"kind":"Status","message":null}"#, "", "", None),
        (500, None, "[", "", "[", None),
    ] {
        let want =
            Refusal { status, reason: reason.to_owned(), message: said.to_owned(), retry_after };
        assert_eq!(Refusal::of_answer(status, header, body.as_bytes()), want, "{body}");
    }
    let shown = Refusal::of_answer(403, None, FORBIDDEN.as_bytes()).to_string();
    assert_eq!(shown, format!("the API server said 403 Forbidden: {message}"));
}

#[test]
fn what_a_server_says_is_bounded_and_printable() {
    let refusal = Refusal::of_answer(500, None, &[0xff; 4096]);
    assert_eq!(refusal.message.chars().count(), TEXT_MAX);
    let body = br#"{"kind":"Status","message":"a\u001b[31mb\nc"}"#;
    assert_eq!(Refusal::of_answer(500, None, body).message, "a [31mb c");
}

#[test]
fn what_expired_is_told_by_code_or_reason() {
    for (object, want) in [
        (r#"{"kind":"Status","code":410,"reason":"Expired"}"#, true),
        (r#"{"kind":"Status","code":410,"reason":"Gone"}"#, true),
        (r#"{"kind":"Status","reason":"Expired"}"#, true),
        (r#"{"kind":"Status","code":500,"reason":"InternalError"}"#, false),
        (r#"{"kind":"Status"}"#, false),
        ("7", false),
    ] {
        assert_eq!(Refusal::of_event(object).is_gone(), want, "{object}");
    }
}

#[test]
fn only_who_asks_for_it_is_asked_again() {
    let of = |status, retry_after: Option<u64>| Refusal {
        status,
        reason: String::new(),
        message: String::new(),
        retry_after: retry_after.map(Duration::from_secs),
    };
    for (status, retry_after, repeats, want) in [
        (429, Some(2), 0, Some(2)),
        (429, None, 0, Some(1)),
        (429, Some(3600), 0, Some(30)),
        (429, Some(2), REPEATS_MAX, None),
        (503, Some(2), 0, Some(2)),
        (503, None, 0, None),
        (500, Some(1), REPEATS_MAX - 1, Some(1)),
        (403, Some(2), 0, None),
        (409, None, 0, None),
    ] {
        let got = of(status, retry_after).repeat_after(repeats, Duration::from_secs(30));
        assert_eq!(got, want.map(Duration::from_secs), "{status} {retry_after:?} {repeats}");
    }
}
