//! Who may prove who they are, and how.

use std::sync::Arc;

use crate::ca::pods::Pods;
use crate::caller::{
    Account, CallerChain, CertificateCallers, ClusterNames, JoinTokenCallers, JoinTokenFile,
    KubernetesReviewer, Roles, TokenCallers,
};
use crate::config::Config;

/// By certificate always; by a service account's token where an API server can be asked; by a join
/// token where there is none.
pub(super) fn of(config: &Config, client: Option<&kube::Client>, pods: &Pods) -> CallerChain {
    let account = |(namespace, name): &(String, String)| Account {
        namespace: namespace.clone(),
        name: name.clone(),
    };
    let roles = Roles {
        node_proxies: config.node_accounts.iter().map(account).collect(),
        gateways: config.gateway_accounts.iter().map(account).collect(),
        trust_domain: config.settings.trust_domain.clone(),
        pods: pods.clone(),
    };
    let clusters = ClusterNames { names: [config.settings.cluster.clone()].into() };
    let mut chain = CallerChain {
        certificates: Some(Arc::new(CertificateCallers::new(roles.clone()))),
        ..CallerChain::default()
    };
    if let Some(client) = client {
        let reviewer = Arc::new(KubernetesReviewer::new(client.clone()));
        let callers = TokenCallers::new(reviewer, clusters, roles);
        chain.account_tokens = Some(Arc::new(callers));
    } else {
        let file = JoinTokenFile::in_folder(&config.arguments.state_dir);
        let callers = JoinTokenCallers::new(file, clusters, roles);
        chain.join_tokens = Some(Arc::new(callers));
    }
    chain
}
