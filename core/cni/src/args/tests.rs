use super::{Args, ArgsError};

const POD: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;\
                   K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1";

#[test]
fn a_pod_is_read() {
    let Args::Kubernetes(pod) = Args::parse(POD).expect("a pod") else { panic!("Kubernetes") };
    assert_eq!(pod.namespace.as_str(), "shop");
    assert_eq!(pod.name().expect("a name").as_str(), "web-0");
    assert_eq!(pod.uid().expect("a UID").as_str(), "u-1");
}

#[test]
fn without_keys_of_kubernetes_it_is_somewhere_else() {
    for text in ["", ";", "IgnoreUnknown=1", "IgnoreUnknown=true;IP=10.0.0.9"] {
        assert_eq!(Args::parse(text).expect(text), Args::Elsewhere);
    }
}

#[test]
fn what_is_missing_or_doubled_or_unknown_is_refused() {
    let parse = |text: &str| Args::parse(text).expect_err(text);
    let missing = ArgsError::Missing("K8S_POD_NAMESPACE");
    for text in ["K8S_POD_NAME=a", "K8S_POD_UID=a", "K8S_POD_INFRA_CONTAINER_ID=a"] {
        assert_eq!(parse(text), missing, "{text}");
    }
    assert_eq!(parse("K8S_POD_NAMESPACE"), ArgsError::NotAPair("K8S_POD_NAMESPACE".into()));
    let twice = "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAMESPACE=shop";
    assert_eq!(parse(twice), ArgsError::Twice("K8S_POD_NAMESPACE"));
    assert_eq!(parse("IP=10.0.0.9"), ArgsError::Unknown("IP".into()));
    assert_eq!(parse("IgnoreUnknown=0;IP=10.0.0.9"), ArgsError::Unknown("IP".into()));
    let odd = ArgsError::IgnoreUnknown("perhaps".into());
    assert_eq!(parse("IgnoreUnknown=perhaps;IP=10.0.0.9"), odd);
    assert!(matches!(parse("K8S_POD_NAMESPACE=Shop"), ArgsError::Invalid(_)));
    assert!(matches!(parse("K8S_POD_NAMESPACE="), ArgsError::Invalid(_)));

    let Args::Kubernetes(pod) = Args::parse("K8S_POD_NAMESPACE=shop").expect("a namespace") else {
        panic!("Kubernetes");
    };
    assert_eq!(pod.name(), Err(ArgsError::Missing("K8S_POD_NAME")));
    assert_eq!(pod.uid(), Err(ArgsError::Missing("K8S_POD_UID")));
}
