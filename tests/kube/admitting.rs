//! A real API server asks the control plane before it takes an object.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use control_plane::status::lease;
use control_plane::webhook::{self, CaBundle};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Api, PostParams};
use model::TrustDomain;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tests::{ApiServer, until};
use tls::{ServerIdentity, ServerTls, Trust, TrustBundle, TrustView};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use translate::Settings;

use crate::definitions;

/// Until the API server asks the webhook with the roots that were written.
const TIMEOUT: Duration = Duration::from_secs(40);

/// A server's certificate for the loopback address, and the authority it is under.
fn identity() -> anyhow::Result<(ServerIdentity, String)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().context("make a key")?;
    let roots = params.self_signed(&key).context("sign an authority")?.pem();
    let issuer = Issuer::new(params, key);
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).context("name the webhook")?;
    let key = KeyPair::generate().context("make a key")?;
    let certificate = params.signed_by(&key, &issuer).context("sign the webhook")?.pem();
    let bundle = TrustBundle::from_pem(TrustDomain::default(), roots.as_bytes());
    let trust = TrustView::fixed(Trust::of(bundle.context("read the authority")?));
    let key = key.serialize_pem();
    let identity = ServerIdentity::from_pem(certificate.as_bytes(), key.as_bytes(), &trust);
    Ok((identity.context("prepare the webhook's certificate")?, roots))
}

fn configuration(port: u16) -> anyhow::Result<ValidatingWebhookConfiguration> {
    let webhook = json!({
        "name": "validation.warren.dev",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": { "url": format!("https://127.0.0.1:{port}/validate") },
        "rules": [{
            "apiGroups": ["security.istio.io"], "apiVersions": ["*"],
            "operations": ["CREATE", "UPDATE"], "resources": ["*"],
        }],
    });
    let configuration = json!({ "metadata": { "name": "warren" }, "webhooks": [webhook] });
    serde_json::from_value(configuration).context("write a configuration")
}

fn policy(name: &str, operation: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}}}\n\
         spec: {{action: DENY, rules: [{{to: [{{operation: {operation}}}]}}]}}\n"
    )
}

#[tokio::test]
async fn what_cannot_be_enforced_is_refused_with_its_reason() -> anyhow::Result<()> {
    // A server of its own: everybody's policies would be asked about.
    let server = ApiServer::start().await?;
    let cluster = server.cluster().await?;
    definitions::define(&cluster).await?;
    let namespace = cluster.namespace("admission").await?;

    let shutdown = CancellationToken::new();
    let _stop = shutdown.clone().drop_guard();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind")?;
    let port = listener.local_addr().context("address of the webhook")?.port();
    let (identity, roots) = identity()?;
    let (_settings, settings) = watch::channel(Arc::new(Settings::new(TrustDomain::default())));
    let tls = ServerTls::fixed(identity);
    tokio::spawn(webhook::serve(listener, tls, settings, shutdown.clone()));

    let (election, leadership) = lease::stand(cluster.client(), &namespace, "warren", "only");
    tokio::spawn(election.run(shutdown.clone()));
    let (_roots, bundle) = watch::channel(Arc::from(roots));
    let writer = CaBundle { name: "warren".to_owned(), bundle };
    tokio::spawn(writer.run(cluster.client(), leadership, shutdown.clone()));
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    let configuration = configuration(port)?;
    configurations.create(&PostParams::default(), &configuration).await.context("register")?;

    // Before the roots are there the webhook is not believed, and it fails closed.
    let allowed = policy("allowed", "{ports: ['80']}");
    until("a policy that can be enforced", TIMEOUT, async || {
        cluster.apply(&namespace, &allowed).await.map(Some)
    })
    .await?;
    for (name, operation, reason) in
        [("paths", "{paths: ['/admin']}", "paths"), ("port", "{ports: ['many']}", "many")]
    {
        let refused = cluster.apply(&namespace, &policy(name, operation)).await;
        let error = refused.err().with_context(|| format!("{name} was taken"))?;
        let error = format!("{error:#}");
        ensure!(error.contains("denied the request") && error.contains(reason), "{error}");
    }
    let changed = policy("allowed", "{methods: [GET]}");
    ensure!(cluster.apply(&namespace, &changed).await.is_err(), "a change for the worse");
    cluster.delete("security.istio.io/v1", "AuthorizationPolicy", &namespace, "allowed").await
}
