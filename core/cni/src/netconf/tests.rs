use std::path::Path;
use std::time::Duration;

use super::{NetConf, NetConfError};
use crate::Version;

#[test]
fn every_version_is_read_and_what_is_not_ours_ignored() {
    for version in Version::ALL {
        let text = format!(
            r#"{{"cniVersion":"{version}","name":"pods","type":"warren-cni","dns":{{}},
                "runtimeConfig":{{"portMappings":[{{"hostPort":1}}]}},"args":{{"cni":{{}}}},
                "prevResult":{{ "cniVersion":"{version}", "ips":[] }}}}"#
        );
        let netconf = NetConf::parse(text.as_bytes()).expect("a configuration");
        assert_eq!(netconf.version, version);
        let previous = format!(r#"{{ "cniVersion":"{version}", "ips":[] }}"#);
        assert_eq!(netconf.previous, Some(previous.as_str()));
        assert_eq!(netconf.socket, Path::new("/run/warren/cni.sock"));
        assert_eq!(netconf.timeout, Duration::from_secs(30));
        assert!(netconf.pass_namespaces.is_empty() && netconf.valid.is_none());
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let parse = |text: &str| NetConf::parse(text.as_bytes()).map(|_| ()).expect_err(text);
    assert!(matches!(parse(""), NetConfError::Unreadable(_)));
    assert!(matches!(parse("{"), NetConfError::Unreadable(_)));
    assert!(matches!(parse("[]"), NetConfError::Version(None)));
    assert!(matches!(parse("1"), NetConfError::Invalid(_)));
    assert!(matches!(parse(r#"{"cniVersion":4}"#), NetConfError::Invalid(_)));
    assert!(matches!(parse("{}"), NetConfError::Version(None)));
    for version in ["0.2.0", "2.0.0", "1.0", ""] {
        let text = format!(r#"{{"cniVersion":"{version}"}}"#);
        assert!(matches!(parse(&text), NetConfError::Version(Some(_))), "{version}");
    }
    let with = |field: &str| parse(&format!(r#"{{"cniVersion":"1.1.0",{field}}}"#));
    assert!(matches!(with(r#""socket":"cni.sock""#), NetConfError::Socket(_)));
    assert!(matches!(with(r#""timeoutSeconds":0"#), NetConfError::Timeout(0)));
    assert!(matches!(with(r#""timeoutSeconds":91"#), NetConfError::Timeout(91)));
    assert!(matches!(with(r#""passNamespaces":"a""#), NetConfError::Invalid(_)));
    let valid = r#""cni.dev/valid-attachments":[{"containerID":"../a","ifname":"eth0"}]"#;
    assert!(matches!(with(valid), NetConfError::Attachment(_)));
}
