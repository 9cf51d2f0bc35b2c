//! `/config_dump` as `istioctl ztunnel-config` reads it, with real contents.

use anyhow::ensure;
use serde_json::Value;
use tests::{AgentOptions, talk};

use crate::land::Land;

/// As `istioctl ztunnel-config log` asks.
#[test]
fn what_is_logged_is_told_and_changed() -> anyhow::Result<()> {
    let land = Land::new(&AgentOptions::default())?;
    let talked = |land: &Land| {
        let mark = land.west.log_mark();
        land.web.greet(&land.shop, "logged or not")?;
        let logged = land.west.wait_access(mark, "the connection", |_| true);
        anyhow::Ok(logged.is_ok())
    };
    ensure!(land.west.change_logging("")? == (200, "current log level is info\n".to_owned()));
    ensure!(talked(&land)?, "the access log is silent at the start");
    let (status, text) = land.west.change_logging("level=info,access:off")?;
    ensure!(status == 200 && text.contains("access=off"), "{status}: {text}");
    ensure!(!talked(&land)?, "the access log goes on");
    let (status, text) = land.west.change_logging("level=loud")?;
    ensure!(status == 400 && text.contains("that is no level"), "{status}: {text}");
    ensure!(land.west.change_logging("reset")?.1.contains("is info"), "not reset");
    ensure!(talked(&land)?, "the access log stays silent");
    Ok(())
}

#[test]
fn the_dump_shows_the_mesh_the_certificates_and_what_is_open() -> anyhow::Result<()> {
    let land = Land::new(&AgentOptions::default())?;
    let open = land.web.connect(&land.shop)?;
    talk(&open, "while it is dumped")?;
    let dump: Value = serde_json::from_str(&land.west.config_dump()?)?;
    let workloads = dump["workloads"].as_array().cloned().unwrap_or_default();
    let names: Vec<_> = workloads.iter().filter_map(|w| w["name"].as_str()).collect();
    ensure!(names == ["old", "shop", "web"], "{names:?}");
    let identity = land.web.pod.identity();
    let certificates = dump["certificates"].as_array().cloned().unwrap_or_default();
    let Some(of_web) = certificates.iter().find(|c| c["identity"] == identity.as_str()) else {
        anyhow::bail!("no certificate of {identity}: {certificates:#?}");
    };
    ensure!(of_web["state"] == "Available", "{of_web:#}");
    for list in ["certChain", "rootCerts"] {
        let first = &of_web[list][0];
        for key in ["pem", "serialNumber", "validFrom", "expirationTime"] {
            ensure!(first[key].as_str().is_some_and(|text| !text.is_empty()), "{list}: {first:#}");
        }
    }
    let pod = &dump["workloadState"][land.web.pod.uid()];
    ensure!(pod["state"] == "Up" && pod["info"]["name"] == "web", "{pod:#}");
    let outbound = &pod["connections"]["outbound"][0];
    ensure!(outbound["protocol"] == "HBONE", "{pod:#}");
    let dialled = land.shop.pod.at(tests::ECHO_PORT).to_string();
    ensure!(outbound["originalDst"] == dialled.as_str(), "{outbound:#}");
    for key in ["services", "policies", "stagedServices", "staticConfig", "version", "config"] {
        ensure!(!dump[key].is_null(), "no {key}");
    }
    Ok(())
}
