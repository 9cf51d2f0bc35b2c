//! Workloads that have a host name and no address: the name is looked up for each connection, in the
//! agent's own network namespace, as the node itself would.

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use resolve::{Lookup, Route};

/// Answers kept, for each thread. Beyond it the least used are asked for again.
const ANSWERS_MAX: u64 = 1024;
/// Longest time that an answer is used, whatever the server says. The least is the server's.
const ANSWER_AGE_MAX: Duration = Duration::from_mins(5);
/// How long a look-up may take, with all its retries; then the connection is refused.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are used; further ones are not looked at.
const ADDRESSES_MAX: usize = 256;

/// Looks names up and remembers the answers. One for each thread.
#[derive(Default)]
pub(crate) struct HostNames {
    /// Made when the first name is looked up: few meshes have any.
    resolver: RefCell<Option<TokioResolver>>,
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    /// The node's `resolv.conf` is not there, or names no server.
    #[error("the node's resolver cannot be used: {0}")]
    Settings(#[source] NetError),
    /// Nobody answered.
    #[error("no answer within {LOOKUP_TIMEOUT:?}")]
    Timeout,
    /// The answer is that there is none, or it cannot be used.
    #[error("{0}")]
    Answer(#[source] NetError),
}

impl HostNames {
    /// Goes on with a route that lacks an address. Cancel safe.
    pub(crate) async fn resolve(&self, lookup: Lookup) -> Route {
        match self.addresses(lookup.hostname()).await {
            Ok(addresses) => lookup.resolved(&addresses),
            Err(error) => lookup.unresolved(&error.to_string()),
        }
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let resolver = self.resolver()?;
        // Absolute: the node's search domains are not the mesh's.
        let absolute = format!("{}.", name.trim_end_matches('.'));
        let answer = tokio::time::timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(absolute));
        let answer = answer.await.map_err(|_| LookupError::Timeout)?;
        let answer = answer.map_err(LookupError::Answer)?;
        Ok(answer.iter().take(ADDRESSES_MAX).collect())
    }

    /// Reads the node's settings, again until they can be used.
    fn resolver(&self) -> Result<TokioResolver, LookupError> {
        if let Some(resolver) = &*self.resolver.borrow() {
            return Ok(resolver.clone());
        }
        let made = TokioResolver::builder_tokio().and_then(build).map_err(LookupError::Settings)?;
        Ok(self.resolver.borrow_mut().insert(made).clone())
    }
}

fn build(builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, NetError> {
    let mut builder = builder;
    adjust(builder.options_mut());
    builder.build()
}

/// Keeps the node's own settings but for what bounds us.
fn adjust(options: &mut ResolverOpts) {
    options.cache_size = ANSWERS_MAX;
    options.positive_max_ttl = Some(ANSWER_AGE_MAX);
    options.negative_max_ttl = Some(ANSWER_AGE_MAX);
    // Which family is used is decided where the route is.
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
}

impl fmt::Debug for HostNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostNames").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::wildcard_enum_match_arm, reason = "any other route fails the test")]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::{RData, Record, RecordType};
    use local_config::Defaults;
    use model::{Code, Network, OriginalDst};
    use resolve::{Ejected, Extent, Query, SameNode, Snapshot};
    use tokio::net::UdpSocket;

    use super::*;

    const MESH: &str = r#"
workloads:
  - {name: web, namespace: shop, workloadIps: [10.0.0.1]}
  - {name: db, namespace: shop, workloadIps: [], hostname: HOST,
     services: {shop/db.svc: {5432: 6432}}}
services:
  - {name: db, namespace: shop, hostname: db.svc, vips: [/10.1.0.1, "/fd00:1::1"],
     ports: {5432: 5432}}
"#;

    /// A name server that knows `known.example.org`, and counts questions.
    async fn server() -> (HostNames, Rc<Cell<usize>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
        let address = socket.local_addr().expect("address");
        let asked = Rc::new(Cell::new(0));
        let counter = asked.clone();
        tokio::task::spawn_local(async move {
            let mut buffer = [0; 512];
            loop {
                let (len, client) = socket.recv_from(&mut buffer).await.expect("receives");
                counter.set(counter.get() + 1);
                let question = Message::from_vec(&buffer[..len]).expect("a question");
                let answer = answer(&question).to_vec().expect("encodes");
                socket.send_to(&answer, client).await.expect("sends");
            }
        });
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        let server = NameServerConfig::new(address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = RefCell::new(Some(build(builder).expect("settings")));
        (HostNames { resolver }, asked)
    }

    fn answer(question: &Message) -> Message {
        let query = question.queries.first().expect("one question").clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.add_query(query.clone());
        let name = query.name().to_ascii().to_lowercase();
        match (name.as_str(), query.query_type()) {
            ("known.example.org.", RecordType::A) => {
                let data = RData::A("192.0.2.7".parse().expect("literal"));
                answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
            }
            ("known.example.org.", RecordType::AAAA) => {
                let data = RData::AAAA("2001:db8::7".parse().expect("literal"));
                answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
            }
            _ => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        answer
    }

    fn lookup(host: &str, dialled: &str) -> Lookup {
        let mesh = local_config::parse("mesh", &MESH.replace("HOST", host), &Defaults::default())
            .expect("a mesh");
        let snapshot = Snapshot::build(mesh.workloads, mesh.services);
        let network = Network::default();
        let source = snapshot.workload_by_address(&network, "10.0.0.1".parse().expect("literal"));
        let route = resolve::resolve(
            &snapshot,
            &Query {
                network: &network,
                source: source.expect("known"),
                original_dst: OriginalDst(dialled.parse().expect("literal")),
                local: &|_| false,
                same_node: SameNode::Relay,
                extent: Extent::Whole,
                ejected: Ejected::NONE,
                random: 0,
            },
        );
        match route {
            Route::Lookup(lookup) => *lookup,
            other => panic!("{other:?}"),
        }
    }

    fn local<F: Future<Output = ()>>(test: F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        tokio::task::LocalSet::new().block_on(&runtime.expect("runtime"), test);
    }

    #[test]
    fn a_name_is_looked_up_once_and_in_the_family_that_was_dialled() {
        local(async {
            let (names, asked) = server().await;
            for (dialled, want) in [
                ("10.1.0.1:5432", "192.0.2.7:6432"),
                ("[fd00:1::1]:5432", "[2001:db8::7]:6432"),
                ("10.1.0.1:5432", "192.0.2.7:6432"),
            ] {
                match names.resolve(lookup("known.example.org", dialled)).await {
                    Route::Passthrough { address, .. } => assert_eq!(address.to_string(), want),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(asked.get(), 2, "once a family");
        });
    }

    #[test]
    fn a_name_without_an_address_refuses() {
        local(async {
            let (names, asked) = server().await;
            for _ in 0..2 {
                match names.resolve(lookup("unknown.example.org", "10.1.0.1:5432")).await {
                    Route::Refused { code, detail, .. } => {
                        assert_eq!(code, Code::HostnameUnresolved);
                        assert!(detail.contains("unknown.example.org"), "{detail}");
                    }
                    other => panic!("{other:?}"),
                }
            }
            // Without an SOA record the answer may not be remembered (RFC 2308, section 5).
            assert!(asked.get() >= 2);
        });
    }
}
