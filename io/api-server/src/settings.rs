//! Where the API server is, how it is recognised, and how long it may take.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use crate::ApiError;

/// Where a pod finds its token and the API server's roots.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Which variables tell a pod where the API server is.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// Where the API server is, and the files that change while we run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// `https://host[:port]`; an IPv6 address in brackets.
    pub server: String,
    /// PEM file of the roots that its certificate must come from. Read for each new connection.
    pub ca: PathBuf,
    /// File of the bearer token. Read for each request, since projected tokens rotate.
    pub token: PathBuf,
}

impl ApiSettings {
    /// Those of the pod that this process runs in.
    pub fn in_cluster() -> Result<Self, ApiError> {
        let read = |variable| {
            let value = env::var(variable).unwrap_or_default();
            if value.is_empty() { Err(ApiError::NotInCluster { variable }) } else { Ok(value) }
        };
        Ok(Self::of_pod(&read(HOST)?, &read(PORT)?))
    }

    fn of_pod(host: &str, port: &str) -> Self {
        let server = if host.contains(':') && !host.starts_with('[') {
            format!("https://[{host}]:{port}")
        } else {
            format!("https://{host}:{port}")
        };
        let account = PathBuf::from(ACCOUNT);
        Self { server, ca: account.join("ca.crt"), token: account.join("token") }
    }
}

/// How long everything may take, and how soon it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// One get, patch or creation, with connecting and repeating.
    pub request: Duration,
    /// One page of a list, with connecting and repeating.
    pub page: Duration,
    /// Connecting, TLS included.
    pub connect: Duration,
    /// How long a watch is asked to last at least; up to a quarter more, by chance, so that the
    /// watches of many nodes do not end together. Whole seconds count.
    pub watch: Duration,
    /// How much longer than asked a watch may last, and how long its answer may take to begin.
    /// After that the server is taken to be silent.
    pub silence: Duration,
    /// The first wait after a failure; each further one is twice as long, up to `wait_max`.
    pub wait_min: Duration,
    /// The longest wait after a failure, and the longest that a server's `Retry-After` is honoured.
    pub wait_max: Duration,
    /// A watch that lasted this long was healthy: the next failure waits `wait_min` again.
    pub steady: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            page: Duration::from_secs(30),
            connect: Duration::from_secs(5),
            watch: Duration::from_mins(4),
            silence: Duration::from_secs(20),
            wait_min: Duration::from_millis(500),
            wait_max: Duration::from_secs(30),
            steady: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_told_an_address_of_either_family_or_a_name() {
        for (host, want) in [
            ("10.0.0.1", "https://10.0.0.1:443"),
            ("fd00::1", "https://[fd00::1]:443"),
            ("[fd00::1]", "https://[fd00::1]:443"),
            ("kubernetes.default.svc", "https://kubernetes.default.svc:443"),
        ] {
            let settings = ApiSettings::of_pod(host, "443");
            assert_eq!(settings.server, want);
            assert!(settings.ca.starts_with(ACCOUNT) && settings.token.starts_with(ACCOUNT));
        }
    }
}
