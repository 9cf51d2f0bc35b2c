//! Where a whole control plane keeps its authority: in a Secret, its own or one that others filled.

use std::time::SystemTime;

use anyhow::{Context, ensure};
use authority::{KeyAlgorithm, MadeRoot, make_root};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use model::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tests::{ClusterPlane, ClusterPod, until};

use crate::agent::{For, certify, identity, speaks_for};
use crate::stage::{NODES, Stage, WRITTEN_WITHIN};

/// An intermediate under a root, as a company's authority would give it; its PEM and its key's.
fn intermediate(root: &MadeRoot) -> anyhow::Result<(String, String)> {
    let key = KeyPair::from_pem(&root.key).context("read the root's key")?;
    let issuer = Issuer::from_ca_cert_pem(&root.certificate, key).context("read the root")?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "intermediate of a company");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().context("make a key")?;
    let certificate = params.signed_by(&key, &issuer).context("sign an intermediate")?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn secret(name: &str, texts: &[(&str, &str)]) -> Secret {
    let data = |(key, text): &(&str, &str)| ((*key).to_owned(), ByteString(text.as_bytes().into()));
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some(texts.iter().map(data).collect()),
        ..Secret::default()
    }
}

#[tokio::test]
async fn the_authority_is_kept_in_a_secret_or_is_the_one_that_was_plugged_in() -> anyhow::Result<()>
{
    let stage = Stage::start().await?;
    let namespace = stage.namespace("rooted").await?;
    stage.cluster.account(&namespace, "web").await?;
    let mut pod = ClusterPod::new("web", NODES[0]);
    pod.account = "web".to_owned();
    stage.cluster.pod(&namespace, &pod).await?;
    let token = stage.agent_token("istio-ca").await?;
    let web = identity(&namespace, "web")?;

    let mut first = ClusterPlane::start(&stage.server, "first", &[]).await?;
    let roots = first.explain(stage.roots(&namespace).await)?;
    let before = certify(&first, Some(&token), For::Pod(&web)).await?.context("refused")?;
    first.stop().await?;
    // With a folder of its own: only the Secret is the same.
    let mut second = ClusterPlane::start(&stage.server, "second", &[]).await?;
    ensure!(second.roots()? == roots, "a restart made another root");
    let after = certify(&second, Some(&token), For::Pod(&web)).await?.context("refused")?;
    for chain in [before, after] {
        ensure!(speaks_for(&chain, &roots)? == web);
    }
    second.stop().await?;

    let root = make_root(&TrustDomain::default(), KeyAlgorithm::P256, SystemTime::now())?;
    let (certificate, key) = intermediate(&root)?;
    let plugged = [
        ("ca-cert.pem", &*certificate),
        ("ca-key.pem", &*key),
        ("cert-chain.pem", &*certificate),
        ("root-cert.pem", &*root.certificate),
    ];
    let secrets: Api<Secret> = Api::namespaced(stage.cluster.client(), "istio-system");
    let params = PostParams::default();
    secrets.create(&params, &secret("cacerts", &plugged)).await.context("plug in")?;
    let third = ClusterPlane::start(&stage.server, "third", &["--ca-secret", "cacerts"]).await?;
    let result = async {
        let told = third.roots()?;
        ensure!(told.trim() == root.certificate.replace('\r', "").trim(), "not the plugged root");
        let chain = certify(&third, Some(&token), For::Pod(&web)).await?.context("refused")?;
        ensure!(speaks_for(&chain, &told)? == web);
        ensure!(chain.len() == 3, "leaf, intermediate and root: {}", chain.len());
        until("the plugged root is published", WRITTEN_WITHIN, async || {
            Ok((stage.roots(&namespace).await? == told).then_some(()))
        })
        .await
    }
    .await;
    third.explain(result)
}
