//! The client of the certificate API against an authority with moods, over loopback.

use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use grpc_channel::{Address, Credentials, Token};
use model::SpiffeId;
use svid::{CALL_TIMEOUT, CaClient, IssueError, Issuer};
use tests::{ControlPlane, Mood, TestCa, TestXds};
use tls::{Compliance, RootSource, ServerTrust, Svid, Trust, TrustView};

const IDENTITY: &str = "spiffe://cluster.local/ns/shop/sa/web";
const TTL: Duration = Duration::from_hours(24);
const TOKEN: &str = "agent.token";

struct Stage {
    ca: TestCa,
    plane: ControlPlane,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new() -> anyhow::Result<Self> {
        let ca = TestCa::new()?;
        let plane =
            ControlPlane::start(vec![TcpListener::bind("127.0.0.1:0")?], &ca, &TestXds::new())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        Ok(Self { ca, plane, runtime })
    }

    fn client(&self, token: Option<&str>) -> anyhow::Result<CaClient> {
        let address = self.plane.addresses().first().context("an address")?;
        let address = Address::parse(&format!("http://{address}"))?;
        let trust = ServerTrust::new(
            RootSource::System,
            address.host(),
            std::iter::empty(),
            Compliance::Default,
        )?;
        let token = token.map(|token| Token::Literal(token.to_owned()));
        let credentials = Credentials::new(token, "Kubernetes", Vec::new())?;
        Ok(CaClient::new(grpc_channel::ControlPlane::new(address, trust, credentials)))
    }

    fn issue(&self, client: &CaClient) -> Result<Svid, IssueError> {
        let identity = SpiffeId::parse(IDENTITY).expect("literal");
        let issued = self.runtime.block_on(client.issue(&identity, TTL))?;
        let trust = TrustView::fixed(Trust::of(issued.bundle.clone()));
        issued.into_svid(&identity, &trust).map_err(|error| IssueError::new(&identity, error))
    }

    /// The causes of a refusal.
    fn refusal(&self, client: &CaClient) -> anyhow::Result<String> {
        match self.issue(client) {
            Ok(svid) => anyhow::bail!("issued {svid:?}"),
            Err(error) => Ok(model::causes(&error)),
        }
    }
}

#[test]
fn a_certificate_is_the_identitys_and_lives_as_the_authority_says() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    stage.ca.set_life(Duration::from_mins(10));
    let client = stage.client(None)?;
    let svid = stage.issue(&client)?;
    ensure!(svid.identity().id().as_str() == IDENTITY, "{svid:?}");
    let life = svid.not_after().duration_since(SystemTime::now())?;
    ensure!((500..=600).contains(&life.as_secs()), "it lives for {life:?}");
    let again = stage.issue(&client)?;
    ensure!(again.serial() != svid.serial(), "two certificates are one");
    ensure!(stage.ca.issued().len() == 2);
    Ok(())
}

#[test]
fn who_does_not_say_who_they_are_gets_nothing() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    stage.ca.require_token(TOKEN);
    for wrong in [None, Some("another.token")] {
        let refusal = stage.refusal(&stage.client(wrong)?)?;
        ensure!(refusal.contains("wrong token"), "{refusal}");
    }
    stage.issue(&stage.client(Some(TOKEN))?)?;
    Ok(())
}

#[test]
fn a_bad_answer_is_refused_and_the_next_good_one_taken() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let client = stage.client(None)?;
    for (mood, why) in [
        (Mood::Refuse, "not on your node"),
        (Mood::Garbage, "holds no certificate"),
        (Mood::OtherIdentity, "ns/other/sa/other"),
    ] {
        stage.ca.set_mood(mood);
        let refusal = stage.refusal(&client)?;
        ensure!(refusal.contains(why), "{mood:?}: {refusal}");
    }
    stage.ca.set_mood(Mood::Issue);
    stage.issue(&client)?;
    Ok(())
}

#[test]
fn an_authority_that_hangs_or_goes_away_is_not_waited_for() -> anyhow::Result<()> {
    let mut stage = Stage::new()?;
    let client = stage.client(None)?;
    stage.ca.set_mood(Mood::Hang);
    let start = std::time::Instant::now();
    let refusal = stage.refusal(&client)?;
    ensure!(refusal.contains("did not answer"), "{refusal}");
    ensure!(start.elapsed() < CALL_TIMEOUT * 2, "after {:?}", start.elapsed());
    stage.ca.set_mood(Mood::Issue);
    stage.issue(&client)?;
    // Gone, and back on the same port: the client connects anew by itself.
    let address = *stage.plane.addresses().first().context("an address")?;
    let gone = std::mem::replace(
        &mut stage.plane,
        ControlPlane::start(Vec::new(), &stage.ca, &TestXds::new())?,
    );
    drop(gone);
    let refusal = stage.refusal(&client)?;
    ensure!(!refusal.is_empty());
    let listener = tests::eventually("the port is free", Duration::from_secs(5), || {
        Ok(TcpListener::bind(address).ok())
    })?;
    stage.plane = ControlPlane::start(vec![listener], &stage.ca, &TestXds::new())?;
    stage.issue(&client)?;
    Ok(())
}

#[test]
fn a_rotation_tells_of_both_roots_before_the_new_one_signs() -> anyhow::Result<()> {
    let stage = Stage::new()?;
    let client = stage.client(None)?;
    stage.ca.add_root()?;
    stage.issue(&client)?;
    stage.ca.sign_with_newest();
    stage.issue(&client)?;
    stage.ca.forget_old_roots();
    stage.issue(&client)?;
    let roots: Vec<_> = stage.ca.issued().iter().map(|issued| issued.root).collect();
    ensure!(roots == [0, 1, 1], "{roots:?}");
    Ok(())
}
