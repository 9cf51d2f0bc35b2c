//! As much HTTP/1.1 as a test needs: one request, one answer, then the end of the connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;

use crate::namespace::Namespace;

/// Bound of connecting to, writing to and reading from a local daemon.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// Its status code.
    pub status: u16,
    /// Its body.
    pub body: String,
    /// The client's own address on the connection.
    pub local: SocketAddr,
}

impl HttpAnswer {
    /// A text field of a JSON body; empty if there is none.
    #[must_use]
    pub fn field(&self, name: &str) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body[name].as_str().unwrap_or_default().to_owned()
    }
}

/// The request; `header` is a whole header line without its end, or empty.
pub(crate) fn get(host: SocketAddr, path: &str, header: &str) -> String {
    let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}Connection: close\r\n\r\n")
}

pub(crate) fn parse(answer: &[u8], local: SocketAddr) -> Option<HttpAnswer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        unchunk(body)
    } else {
        body.to_owned()
    };
    Some(HttpAnswer { status, body, local })
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        let Some(chunk) = tail.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        body.push_str(chunk);
        rest = tail.get(size + 2..).unwrap_or_default();
    }
    body
}

/// Asks a daemon from inside a namespace.
pub(crate) fn get_within(
    namespace: &Namespace,
    target: SocketAddr,
    path: &str,
) -> anyhow::Result<HttpAnswer> {
    ask_within(namespace, target, path, &get(target, path, ""))
}

/// The same with a POST that has no body.
pub(crate) fn post_within(
    namespace: &Namespace,
    target: SocketAddr,
    path: &str,
) -> anyhow::Result<HttpAnswer> {
    let request = format!("POST {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    ask_within(namespace, target, path, &request)
}

fn ask_within(
    namespace: &Namespace,
    target: SocketAddr,
    path: &str,
    request: &str,
) -> anyhow::Result<HttpAnswer> {
    let mut stream = namespace
        .within(|| TcpStream::connect_timeout(&target, LOCAL_TIMEOUT))?
        .with_context(|| format!("connect to {target} in {}", namespace.name()))?;
    stream.set_read_timeout(Some(LOCAL_TIMEOUT)).context("set a timeout")?;
    stream.set_write_timeout(Some(LOCAL_TIMEOUT)).context("set a timeout")?;
    let mut answer = Vec::new();
    stream.write_all(request.as_bytes()).context("send a request")?;
    stream.read_to_end(&mut answer).context("read the answer")?;
    let local = stream.local_addr().context("ask for the own address")?;
    parse(&answer, local).with_context(|| format!("{target}{path} gave no HTTP answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_in_chunks() {
        let local = SocketAddr::from(([127, 0, 0, 1], 1));
        let plain = parse(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", local);
        assert_eq!(plain.map(|a| (a.status, a.body)), Some((200, "hi".to_owned())));
        let chunked =
            b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        let chunked = parse(chunked, local).map(|a| (a.status, a.body));
        assert_eq!(chunked, Some((503, "hi!".to_owned())));
        assert!(parse(b"SSH-2.0-x\r\n\r\n", local).is_none());
    }
}
