//! A whole dump, compared with the shape that Istio's tools read (`golden.json`).
//!
//! The contents are this test's; keys, spellings and nesting are `istioctl`'s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use authz::{PolicyStore, Settings};
use local_config::Defaults;
use model::{Direction, Path, WorkloadKey};
use resolve::Snapshot;

use super::*;
use crate::mesh::Sync;
use crate::telemetry::OpenConnection;

const MESH: &str = include_str!("mesh.yaml");
const GOLDEN: &str = include_str!("golden.json");

fn connection(
    direction: Direction,
    path: Path,
    [source, dialled, to]: [&str; 3],
) -> OpenConnection {
    let address = |text: &str| text.parse::<SocketAddr>().expect("literal");
    OpenConnection {
        direction,
        path,
        workload: WorkloadKey::parse("shop/web/websa").ok(),
        source: address(source),
        original_dst: address(dialled),
        actual_dst: address(to),
        service: matches!(direction, Direction::Inbound).then(|| "shop/cart.svc".to_owned()),
    }
}

fn dump() -> serde_json::Value {
    let environment = [
        ("NODE_NAME", "n1"),
        ("ZTUNNEL_WORKER_THREADS", "2"),
        ("LOCAL_XDS_PATH", "/nowhere"),
        ("WARREN_DEV_CA_DIR", "/nowhere"),
    ];
    let config = Config::read(&environment.into_iter().collect()).expect("settings");
    let mesh = local_config::parse("mesh.yaml", MESH, &Defaults::default()).expect("a mesh");
    let state = MeshState {
        snapshot: Arc::new(Snapshot::build(mesh.workloads, mesh.services)),
        policies: Arc::new(PolicyStore::compile(
            mesh.policies,
            &Settings::rooted(&config.root_namespace),
        )),
        revision: 1,
        applied_at: SystemTime::UNIX_EPOCH,
        sync: Sync::Complete,
    };
    let open = [
        connection(
            Direction::Outbound,
            Path::Hbone,
            ["10.0.0.1:40000", "10.1.0.1:80", "10.0.0.2:15008"],
        ),
        connection(
            Direction::Inbound,
            Path::Plaintext,
            ["10.9.0.1:50000", "10.0.0.1:80", "10.0.0.1:80"],
        ),
    ];
    let pod = pods::PodConnections {
        uid: "6c1f0f0e-8c1d-4b0c-9d0e-000000000001".to_owned(),
        workload: WorkloadKey::parse("shop/web/websa").expect("literal"),
        trust_domain: "example.org".to_owned(),
        verified: true,
        open: open.into_iter().map(Arc::new).collect(),
    };
    let sources = Sources { mesh: &state, config: &config, identities: &[], pods: vec![pod] };
    serde_json::from_str(&config_dump(&sources).expect("JSON")).expect("JSON")
}

#[test]
fn the_dump_has_the_shape_that_istios_tools_read() {
    let golden: serde_json::Value = serde_json::from_str(GOLDEN).expect("the golden file");
    let mut dump = dump();
    // The only part that depends on how the test was built.
    dump["version"]["buildProfile"] = "debug".into();
    assert_eq!(dump, golden, "the dump is now:\n{dump:#}");
}
