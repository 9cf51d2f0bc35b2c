use grpc_channel::{Header, Token};

use super::*;

fn read(settings: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::read(&settings.iter().copied().collect())
}

const REQUIRED: [(&str, &str); 3] =
    [("NODE_NAME", "n1"), ("LOCAL_XDS_PATH", "/etc/mesh.yaml"), ("WARREN_DEV_CA_DIR", "/ca")];

fn with(more: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    read(&[&REQUIRED, more].concat())
}

#[test]
fn defaults_are_istios() {
    let config = with(&[]).expect("defaults are valid");
    assert_eq!(config.trust_domain.as_str(), "cluster.local");
    assert_eq!(config.http2.stream_window, 4 << 20);
    assert_eq!(config.drain, Duration::from_secs(5));
    assert_eq!(config.same_node, SameNode::Relay);
    assert_eq!(config.require_waypoint, RequireWaypoint::Off);
    assert_eq!(config.tunnel_address, TunnelAddress::Loopback);
    assert_eq!(config.keepalive.map(|k| k.retries), Some(9));
    assert_eq!(config.stats_address.port(), 15020);
}

#[test]
fn missing_settings_are_all_named() {
    let errors = read(&[]).expect_err("nothing is set");
    let named: Vec<_> = errors.0.iter().map(|error| error.setting).collect();
    assert_eq!(named, ["LOCAL_XDS_PATH", "WARREN_DEV_CA_DIR", "NODE_NAME"]);
}

#[test]
fn a_control_plane_is_read_whole() {
    let config = read(&[
        ("NODE_NAME", "n1"),
        ("XDS_ADDRESS", "https://istiod.istio-system.svc:15012"),
        ("XDS_HEADER_X_TENANT", "shop"),
        ("ALT_XDS_HOSTNAME", "istiod"),
        ("XDS_ON_DEMAND", "true"),
        ("CA_ADDRESS", "http://127.0.0.1:15012"),
        ("CA_ROOT_CA", "SYSTEM"),
        ("AUTH_TOKEN", "/token"),
    ])
    .expect("a control plane");
    let MeshSource::ControlPlane { plane, on_demand } = config.mesh else { panic!("a file") };
    assert!(on_demand);
    assert_eq!(plane.address.to_string(), "https://istiod.istio-system.svc:15012");
    let roots = "/var/run/secrets/istio/root-cert.pem";
    assert_eq!(plane.roots, tls::RootSource::File(roots.into()));
    assert_eq!(plane.alternate.as_deref(), Some("istiod"));
    assert_eq!(plane.headers, [Header::parse("x-tenant", "shop").expect("a header")]);
    let Authority::ControlPlane(authority) = config.authority else { panic!("a folder") };
    assert_eq!(authority.roots, tls::RootSource::System);
    assert_eq!(authority.token, TokenSetting::Set(Token::File("/token".into())));
    assert_eq!(authority.headers, []);
}

#[test]
fn a_wrong_control_plane_is_refused() {
    for (name, value) in [
        ("XDS_ADDRESS", "http://istiod:15012"),
        ("XDS_ROOT_CA", "roots.pem"),
        ("AUTH_TOKEN", "two words"),
        ("ALT_XDS_HOSTNAME", "no host"),
    ] {
        let settings =
            [("NODE_NAME", "n1"), ("WARREN_DEV_CA_DIR", "/ca"), ("XDS_ADDRESS", "https://istiod")];
        let settings: Vec<_> = settings.into_iter().filter(|(n, _)| *n != name).collect();
        let errors = read(&[&settings[..], &[(name, value)]].concat()).expect_err(value);
        assert!(errors.0.iter().any(|error| error.setting == name), "{errors}");
    }
    let errors = with(&[("XDS_ADDRESS", "https://istiod")]).expect_err("two sources");
    assert_eq!(
        errors.to_string(),
        "XDS_ADDRESS=\"https://istiod\": cannot be used together with LOCAL_XDS_PATH"
    );
    assert!(with(&[("XDS_HEADER_TE", "x")]).is_err(), "a reserved header");
}

#[test]
fn trust_is_read_whole() {
    assert_eq!(with(&[]).expect("defaults").trust, TrustSources::default());
    let config = with(&[
        ("CRL_PATH", "/crl"),
        ("WARREN_TRUST_BUNDLE_DIR", "/bundles"),
        ("WARREN_TRUST_DOMAIN_ALIASES", "old.example, older.example,"),
        ("COMPLIANCE_POLICY", "pqc"),
    ])
    .expect("valid");
    let aliases = ["old.example", "older.example"];
    let want = TrustSources {
        crl: Some("/crl".into()),
        bundles: Some("/bundles".into()),
        aliases: aliases.map(|name| TrustDomain::parse(name).expect("valid")).to_vec(),
        compliance: Compliance::Pqc,
    };
    assert_eq!(config.trust, want);
}

#[test]
fn policies_know_what_the_operator_said_of_the_mesh() {
    let config = with(&[
        ("TRUST_DOMAIN", "new.example"),
        ("WARREN_TRUST_DOMAIN_ALIASES", "old.example"),
        ("WARREN_ROOT_NAMESPACE", "mesh"),
        ("WARREN_UNENFORCEABLE_DENY", "ignore"),
    ])
    .expect("valid");
    let domain = |name| TrustDomain::parse(name).expect("valid");
    let want = authz::Settings {
        root_namespace: "mesh".into(),
        unenforceable_deny: UnenforceableDeny::Ignore,
        trust_domain: domain("new.example"),
        trust_domain_aliases: vec![domain("old.example")],
    };
    assert_eq!(config.policies(), want);
}

#[test]
fn the_development_ca_excludes_another() {
    let errors = with(&[("CA_ADDRESS", "https://ca")]).expect_err("two authorities");
    assert_eq!(
        errors.to_string(),
        "CA_ADDRESS=\"https://ca\": cannot be used together with WARREN_DEV_CA_DIR"
    );
}

#[test]
fn capture_of_questions_is_off_unless_said_otherwise() {
    for (settings, on) in [
        (&[][..], false),
        (&[("DNS_CAPTURE", "true")], true),
        (&[("DNS_CAPTURE", "1")], false),
        (&[("WARREN_DNS_CAPTURE", "true")], true),
        (&[("WARREN_DNS_CAPTURE", "false"), ("DNS_CAPTURE", "true")], false),
        (&[("WARREN_DNS_CAPTURE", "true"), ("DNS_CAPTURE", "false")], true),
    ] {
        assert_eq!(with(settings).expect("valid").dns_capture, on, "{settings:?}");
    }
    let on_demand = [
        ("NODE_NAME", "n1"),
        ("WARREN_DEV_CA_DIR", "/ca"),
        ("XDS_ADDRESS", "https://istiod"),
        ("XDS_ON_DEMAND", "true"),
    ];
    assert!(!read(&on_demand).expect("valid").dns_capture);
    for name in ["WARREN_DNS_CAPTURE", "DNS_CAPTURE"] {
        let errors = read(&[&on_demand[..], &[(name, "true")]].concat()).expect_err("refused");
        assert_eq!(errors.0.len(), 1, "{errors}");
        assert_eq!(errors.0[0].setting, name);
    }
}

#[test]
fn drain_time_follows_the_grace_period() {
    for (grace, drain) in [("0", 1), ("1", 1), ("10", 9), ("11", 6), ("30", 25)] {
        let config = with(&[("TERMINATION_GRACE_PERIOD_SECONDS", grace)]).expect(grace);
        assert_eq!(config.drain, Duration::from_secs(drain), "{grace}");
    }
}

#[test]
fn wrong_values_name_variable_value_and_cause() {
    for (name, value) in [
        ("NODE_NAME", "../n1"),
        ("NODE_NAME", ".."),
        ("LOCAL_XDS_PATH", "mesh.yaml"),
        ("TRUST_DOMAIN", "Not A Domain"),
        ("WARREN_BYPASS_CIDRS", "10.0.0.0/8,ten"),
        ("WARREN_SAME_NODE", "direct"),
        ("WARREN_STATS_ADDR", "15020"),
        ("WARREN_DUMP_ADDR", "0.0.0.0:15000"),
        ("ZTUNNEL_WORKER_THREADS", "17"),
        ("SECRET_TTL", "1s"),
        ("CRL_PATH", "crl.pem"),
        ("WARREN_TRUST_BUNDLE_DIR", "bundles"),
        ("WARREN_TRUST_DOMAIN_ALIASES", "old.example,Not A Domain"),
        ("COMPLIANCE_POLICY", "fips"),
        ("SECRET_TTL", "9999999999999999999h"),
        ("HTTP2_FRAME_SIZE", "1"),
        ("HTTP2_STREAM_WINDOW_SIZE", "4294967296"),
        ("KEEPALIVE_RETRIES", "0"),
        ("KEEPALIVE_TIME", "soon"),
        ("LOG_FORMAT", "xml"),
        ("WARREN_DNS_CAPTURE", "perhaps"),
        ("CLUSTER_DOMAIN", "no domain"),
        ("WARREN_TCP_CONGESTION", "a very long name"),
    ] {
        let settings: Vec<_> = REQUIRED.into_iter().filter(|(n, _)| *n != name).collect();
        let errors = read(&[&settings[..], &[(name, value)]].concat()).expect_err(value);
        assert_eq!(errors.0.len(), 1, "{errors}");
        assert_eq!(errors.0[0].setting, name);
        assert_eq!(errors.0[0].value.as_deref(), Some(value));
    }
}

#[test]
fn the_documentation_is_generated_from_the_schema() {
    let page = include_str!("../../../docs/configuration.md");
    assert_eq!(page, markdown(), "run: cargo run -p ztunnel -- settings > docs/configuration.md");
}

#[test]
fn waypoints_are_enforced_only_where_all_services_are_known() {
    let set = [("WARREN_REQUIRE_WAYPOINT", "enforce"), ("LOCALHOST_APP_TUNNEL", "false")];
    let config = with(&set).expect("a file knows all");
    assert_eq!(config.require_waypoint, RequireWaypoint::Enforce);
    assert_eq!(config.tunnel_address, TunnelAddress::Pod);
    let errors = read(&[
        ("NODE_NAME", "n1"),
        ("XDS_ADDRESS", "https://istiod:15012"),
        ("XDS_ON_DEMAND", "true"),
        ("WARREN_DEV_CA_DIR", "/ca"),
        ("WARREN_REQUIRE_WAYPOINT", "enforce"),
    ])
    .expect_err("not with on-demand");
    let named: Vec<_> = errors.0.iter().map(|error| error.setting).collect();
    assert_eq!(named, ["WARREN_REQUIRE_WAYPOINT"]);
}

#[test]
fn enrolment_on_kubernetes_is_read_whole() {
    assert_eq!(with(&[]).expect("defaults").enrolment, Enrolment::Local);
    let config = with(&[
        ("WARREN_ENROLMENT", "kubernetes"),
        ("WARREN_EXCLUDED_NAMESPACES", "kube-system, storage"),
        ("POD_NAMESPACE", "warren-system"),
        ("WARREN_HOST_PROC", "/host/proc"),
        ("WARREN_HOST_CGROUP", "/host/cgroup"),
        ("WARREN_CNI_CONF_DIR", "/host/etc/cni/net.d"),
        ("WARREN_CNI_BIN_DIR", "/host/opt/cni/bin"),
        ("WARREN_NODE_TAINT", "true"),
    ])
    .expect("valid");
    assert_eq!(config.redirection, Wish::Auto);
    let Enrolment::Kubernetes(settings) = config.enrolment else { panic!("local") };
    let excluded: Vec<_> = settings.excluded_namespaces.iter().map(String::as_str).collect();
    assert_eq!(excluded, ["kube-system", "storage", "warren-system"]);
    assert!(settings.node_taint);
    assert_eq!(settings.host_cgroup, std::path::Path::new("/host/cgroup"));
    let cni = settings.cni.expect("both folders are set");
    assert_eq!(cni.program, std::path::Path::new("/usr/local/bin/warren-cni"));
    for (name, value) in [
        ("WARREN_ENROLMENT", "maybe"),
        ("WARREN_EXCLUDED_NAMESPACES", "Kube_System"),
        ("WARREN_HOST_PROC", "proc"),
        ("WARREN_NODE_TAINT", "maybe"),
    ] {
        let errors = with(&[(name, value)]).expect_err(value);
        assert_eq!(errors.0[0].setting, name);
    }
    let both = [("WARREN_ENROLMENT", "kubernetes"), ("WARREN_REDIRECTION", "external")];
    let errors = with(&both).expect_err("two would decide").to_string();
    assert!(errors.contains("WARREN_REDIRECTION"), "{errors}");
    let half = [("WARREN_ENROLMENT", "kubernetes"), ("WARREN_CNI_CONF_DIR", "/c")];
    assert_eq!(with(&half).expect_err("half").0[0].setting, "WARREN_CNI_BIN_DIR");
}
