//! The tap on the wire between the nodes, and what must and must not be found there.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{bail, ensure};
use parking_lot::Mutex;
use tests::Sniffer;

use crate::narrator;
use crate::stage::{HTTP_PORT, Stage};

const HBONE_PORT: u16 = 15008;

/// Which secret a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secret {
    /// Of clients in the mesh: must never be seen.
    InMesh,
    /// Of the client outside: the control, which must be seen.
    Outside,
}

/// A running capture.
pub(crate) struct Wire {
    sniffer: Mutex<Option<Sniffer>>,
    in_mesh: String,
    outside: String,
    /// The one client whose requests may pass in plaintext.
    legacy: [IpAddr; 2],
    file: PathBuf,
}

impl Wire {
    /// Captures from now on.
    pub(crate) fn tap(stage: &Stage<'_>) -> anyhow::Result<Self> {
        let number = stage.world.prefix();
        Ok(Self {
            sniffer: Mutex::new(Some(stage.world.sniff_wire(1)?)),
            in_mesh: format!("only-for-orders-{number}"),
            outside: format!("said-in-the-open-{number}"),
            legacy: [stage.legacy.ipv4(), stage.legacy.ipv6()],
            file: stage.world.folder().join("wire.pcap"),
        })
    }

    pub(crate) fn secret(&self, which: Secret) -> &str {
        match which {
            Secret::InMesh => &self.in_mesh,
            Secret::Outside => &self.outside,
        }
    }

    /// Ends the capture and looks for the secrets.
    pub(crate) fn judge(&self) -> anyhow::Result<String> {
        let Some(sniffer) = self.sniffer.lock().take() else {
            bail!("the capture has ended already")
        };
        let capture = sniffer.stop()?;
        capture.write_pcap(&self.file)?;
        ensure!(capture.lost() == 0, "{} frames were lost: nothing is proved", capture.lost());
        let records = capture.tls_records_of_port(HBONE_PORT);
        let tunnel = capture.payload_of_port(HBONE_PORT);
        let plain = capture.payload_of_port(HTTP_PORT);
        narrator::say(&format!("{} frames in {}", capture.frames().len(), self.file.display()));
        narrator::say(&format!("port {HBONE_PORT}: {tunnel} bytes, {records} TLS records seen"));
        let stranger = capture.segments().find(|segment| {
            let ends = [segment.source, segment.destination];
            ends.iter().any(|end| end.port() == HTTP_PORT)
                && !ends.iter().any(|end| self.legacy.contains(&end.ip()))
        });
        if let Some(segment) = stranger {
            bail!("in plaintext: {} -> {}", segment.source, segment.destination);
        }
        narrator::say(&format!("port {HTTP_PORT}: {plain} bytes, all of them legacy's"));
        for secret in [&self.in_mesh, &self.outside] {
            let found = capture.tcp_payload_contains(secret.as_bytes())
                || capture.contains(secret.as_bytes());
            let word = if found { "found" } else { "not found" };
            narrator::say(&format!("{secret}: {word}"));
            ensure!(found == (*secret == self.outside), "{secret} was {word}");
        }
        ensure!(records > 0, "no TLS record passed on port {HBONE_PORT}");
        Ok("mesh requests are not readable; the plaintext control is".to_owned())
    }
}
