//! What is spoken at a port. It only describes: agents carry bytes.

use cluster::service::ServicePort;
use proto::workload::AppProtocol;

/// Ports where the server speaks first, so that nothing else can be assumed of a port without a
/// name: SMTP, MySQL and MongoDB.
const SERVER_FIRST: [u16; 3] = [25, 3306, 27017];

/// Of a Kubernetes port: by its protocol, else by its name up to the first dash.
pub(crate) fn of_port(port: &ServicePort) -> AppProtocol {
    match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c") => AppProtocol::Http2,
        Some("kubernetes.io/ws") => AppProtocol::Http11,
        Some("kubernetes.io/wss") => AppProtocol::Tls,
        Some(name) => of_name(name),
        None if port.name.is_empty() && SERVER_FIRST.contains(&port.port) => AppProtocol::Tcp,
        None => of_name(port.name.split('-').next().unwrap_or_default()),
    }
}

/// Of a word, in whatever case.
pub(crate) fn of_name(name: &str) -> AppProtocol {
    match &*name.to_ascii_lowercase() {
        "http" => AppProtocol::Http11,
        "http2" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" => AppProtocol::Tcp,
        "tls" | "https" => AppProtocol::Tls,
        _ => AppProtocol::Unknown,
    }
}
