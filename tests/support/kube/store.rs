//! What a test does to etcd behind the API server's back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::http;

/// Bound of one exchange with etcd.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A key that is none of Kubernetes'.
const MARK: &str = "/tests/compaction";

/// Removes a key, such as `/registry/pods/NAMESPACE/NAME`.
pub(super) fn remove(etcd: SocketAddr, key: &str) -> anyhow::Result<()> {
    let answer = ask(etcd, "/v3/kv/deleterange", &json!({ "key": BASE64.encode(key) }))?;
    ensure!(answer["deleted"] == "1", "etcd has no {key}: {answer}");
    Ok(())
}

/// Forgets all revisions up to now; returns the newest.
pub(super) fn compact(etcd: SocketAddr) -> anyhow::Result<String> {
    // etcd keeps the newest event of what it compacts. A watch that asks for what follows the last
    // change must find it forgotten, too: so the last two are ours.
    let mark = json!({ "key": BASE64.encode(MARK), "value": "" });
    ask(etcd, "/v3/kv/put", &mark)?;
    let marked = ask(etcd, "/v3/kv/put", &mark)?;
    let revision = marked["header"]["revision"].as_str().context("etcd tells no revision")?;
    // Physical: done when it answers, so that a watch from before fails from now on.
    ask(etcd, "/v3/kv/compaction", &json!({ "revision": revision, "physical": true }))?;
    Ok(revision.to_owned())
}

fn ask(etcd: SocketAddr, path: &str, body: &Value) -> anyhow::Result<Value> {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {etcd}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n\
         {body}",
        body.len()
    );
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&etcd, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().with_context(|| format!("ask etcd for {path}"))?;
    let answer = http::parse(&answer, etcd).with_context(|| format!("{path}: no HTTP answer"))?;
    ensure!(answer.status == 200, "{path} was answered with {}: {}", answer.status, answer.body);
    serde_json::from_str(&answer.body).with_context(|| format!("read etcd's answer to {path}"))
}
