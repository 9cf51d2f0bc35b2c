//! Tokens of service accounts, as a certificate authority has them reviewed.

use anyhow::{Context, ensure};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use tests::{ApiServer, Cluster, ClusterPod};

/// Who bears the token, or why the API server does not believe it.
pub(crate) async fn review(
    cluster: &Cluster,
    token: &str,
    audience: &str,
) -> anyhow::Result<Result<UserInfo, String>> {
    let reviews: Api<TokenReview> = Api::all(cluster.client());
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![audience.to_owned()]),
        },
        ..TokenReview::default()
    };
    let answer = reviews.create(&PostParams::default(), &review).await.context("review a token")?;
    let status = answer.status.context("a review without an answer")?;
    Ok(if status.authenticated == Some(true) {
        Ok(status.user.context("an authenticated nobody")?)
    } else {
        Err(status.error.unwrap_or_default())
    })
}

#[tokio::test]
async fn a_token_bound_to_a_pod_tells_account_pod_and_node() -> anyhow::Result<()> {
    let cluster = ApiServer::shared().await?.cluster().await?;
    let namespace = cluster.namespace("tokens").await?;
    cluster.account(&namespace, "ztunnel").await?;
    let mut pod = ClusterPod::new("ztunnel-x", "node-a");
    pod.account = "ztunnel".to_owned();
    let pod = cluster.pod(&namespace, &pod).await?;
    let token = cluster.token(&namespace, "ztunnel", "istio-ca", Some(&pod)).await?;

    let user = review(&cluster, &token, "istio-ca").await?.map_err(anyhow::Error::msg)?;
    let expected = format!("system:serviceaccount:{namespace}:ztunnel");
    ensure!(user.username.as_deref() == Some(expected.as_str()), "{user:?}");
    let extra = user.extra.context("no extra")?;
    let tells = |key: &str, value: &str| {
        extra.get(key).is_some_and(|values| values.iter().any(|told| told == value))
    };
    ensure!(tells("authentication.kubernetes.io/pod-name", "ztunnel-x"), "{extra:?}");
    ensure!(tells("authentication.kubernetes.io/pod-uid", &pod.uid().context("no uid")?));
    ensure!(tells("authentication.kubernetes.io/node-name", "node-a"), "{extra:?}");
    Ok(())
}

#[tokio::test]
async fn a_token_is_not_believed_for_another_audience_nor_after_its_pod() -> anyhow::Result<()> {
    let cluster = ApiServer::shared().await?.cluster().await?;
    let namespace = cluster.namespace("tokens").await?;
    cluster.account(&namespace, "default").await?;
    let pod = cluster.pod(&namespace, &ClusterPod::new("web", "node-a")).await?;
    let token = cluster.token(&namespace, "default", "istio-ca", Some(&pod)).await?;
    ensure!(review(&cluster, &token, "vault").await?.is_err());
    ensure!(review(&cluster, "not-a-token", "istio-ca").await?.is_err());
    ensure!(review(&cluster, &token, "istio-ca").await?.is_ok());
    cluster.delete("v1", "Pod", &namespace, "web").await?;
    tests::until("the token of a deleted pod is refused", WITHIN, async || {
        Ok(review(&cluster, &token, "istio-ca").await?.is_err().then_some(()))
    })
    .await
}

#[tokio::test]
async fn the_bearer_of_a_token_may_do_what_its_account_may() -> anyhow::Result<()> {
    let server = ApiServer::shared().await?;
    let cluster = server.cluster().await?;
    let namespace = cluster.namespace("tokens").await?;
    cluster.account(&namespace, "reader").await?;
    let own = "https://kubernetes.default.svc";
    let token = cluster.token(&namespace, "reader", own, None).await?;
    let client = server.client_of(&token).await?;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client, &namespace);
    let refused = pods.get_opt("web").await;
    ensure!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 403), "{refused:?}");
    let rules = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: reader\n\
                 rules:\n- apiGroups: [\"\"]\n  resources: [pods]\n  verbs: [get]\n---\n\
                 apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata:\n  \
                 name: reader\nroleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  \
                 name: reader\nsubjects:\n- kind: ServiceAccount\n  name: reader\n";
    cluster.apply(&namespace, rules).await?;
    tests::until("a role takes effect", WITHIN, async || {
        Ok(pods.get_opt("web").await?.is_none().then_some(()))
    })
    .await
}

/// The API server's own caches: of tokens some seconds, of roles less.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(30);
