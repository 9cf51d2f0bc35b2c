//! Reading and changing single objects.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use serde_json::value::RawValue;
use tls::{Compliance, RootSource, ServerTrust};
use tokio::time::{Instant, sleep, timeout_at};

use crate::access::{self, Access, REVIEWS};
use crate::address::Address;
use crate::exchange::{Asked, Exchange, Repeat};
use crate::query::is_path;
use crate::{ApiError, ApiSettings, Cause, Operation, Timing};

/// Largest object, in bytes: etcd's bound is 1.5 MiB. A larger one is an error.
const OBJECT_MAX: usize = 4 << 20;
const NOT_FOUND: u16 = 404;

/// A client of one API server. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct ApiClient(Arc<Exchange>);

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiClient").field(&self.0.address.authority()).finish()
    }
}

impl ApiClient {
    /// The client of the pod that this process runs in, by its service account.
    pub fn in_cluster() -> Result<Self, ApiError> {
        Self::new(ApiSettings::in_cluster()?)
    }

    /// A client that connects when it is first used; the files may appear later.
    pub fn new(settings: ApiSettings) -> Result<Self, ApiError> {
        Self::with_timing(settings, Timing::default())
    }

    /// The same with other times.
    pub fn with_timing(settings: ApiSettings, timing: Timing) -> Result<Self, ApiError> {
        let address = Address::parse(&settings.server)?;
        let roots = RootSource::File(settings.ca);
        let trust = ServerTrust::new(roots, &address.host, [], Compliance::Default)
            .map_err(ApiError::Name)?;
        Ok(Self(Arc::new(Exchange::new(address, trust, settings.token, timing))))
    }

    /// One object; `None` if there is none of that name.
    pub async fn get(&self, path: &str) -> Result<Option<Box<RawValue>>, ApiError> {
        let asked = Asked::get(path.to_owned());
        let answered = self.whole(Operation::Get, path, &asked).await;
        match answered {
            Ok(body) => {
                let failed = |error| ApiError::request(Operation::Get, path, Cause::Json(error));
                serde_json::from_slice(&body).map(Some).map_err(failed)
            }
            Err(error) if error.status() == Some(NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes what the patch names and nothing else (RFC 7396). Twice is as good as once.
    pub async fn merge_patch(&self, path: &str, patch: &Value) -> Result<(), ApiError> {
        let repeat = Repeat::Harmless;
        let body = ("application/merge-patch+json", bytes(patch));
        let asked =
            Asked { method: Method::PATCH, target: path.to_owned(), body: Some(body), repeat };
        self.whole(Operation::Patch, path, &asked).await.map(drop)
    }

    /// Changes parts of lists, if all of its `test`s hold (RFC 6902): the way to remove one taint
    /// and no other. A failed test is a refusal with status 422.
    pub async fn json_patch(&self, path: &str, patch: &Value) -> Result<(), ApiError> {
        let repeat = Repeat::IfUnsent;
        let body = ("application/json-patch+json", bytes(patch));
        let asked =
            Asked { method: Method::PATCH, target: path.to_owned(), body: Some(body), repeat };
        self.whole(Operation::Patch, path, &asked).await.map(drop)
    }

    /// Makes a new object in a collection. One of that name is a refusal with status 409.
    pub async fn create(&self, path: &str, object: &Value) -> Result<(), ApiError> {
        self.post(path, object).await.map(drop)
    }

    /// Whether we may do something, as the server sees it. Nothing comes of asking: what is made for
    /// it is not kept.
    pub async fn may(&self, access: &Access<'_>) -> Result<bool, ApiError> {
        let answer = self.post(REVIEWS, &access.question()).await?;
        let failed = |error| ApiError::request(Operation::Create, REVIEWS, Cause::Json(error));
        access::answer(&answer).map_err(failed)
    }

    async fn post(&self, path: &str, object: &Value) -> Result<Vec<u8>, ApiError> {
        let repeat = Repeat::IfUnsent;
        let body = ("application/json", bytes(object));
        let asked =
            Asked { method: Method::POST, target: path.to_owned(), body: Some(body), repeat };
        self.whole(Operation::Create, path, &asked).await
    }

    pub(crate) fn timing(&self) -> &Timing {
        &self.0.timing
    }

    pub(crate) fn exchange(&self) -> &Exchange {
        &self.0
    }

    async fn whole(
        &self,
        operation: Operation,
        path: &str,
        asked: &Asked,
    ) -> Result<Vec<u8>, ApiError> {
        let deadline = self.0.timing.request;
        let answered = if is_path(path) {
            self.repeated(asked, OBJECT_MAX, deadline).await
        } else {
            Err(Cause::Path)
        };
        answered.map_err(|cause| ApiError::request(operation, path, cause))
    }

    /// Asks, and asks again as often as the server wants it, within `time`.
    pub(crate) async fn repeated(
        &self,
        asked: &Asked,
        max: usize,
        time: Duration,
    ) -> Result<Vec<u8>, Cause> {
        let deadline = Instant::now() + time;
        let mut repeats = 0;
        loop {
            let once = async {
                // It is never closed.
                let _slot = self.0.slots.acquire().await;
                let answer = self.0.ask(asked).await?;
                self.0.read(answer, max).await
            };
            let answered = timeout_at(deadline, once).await.unwrap_or_else(|_| {
                self.0.idle.close();
                Err(Cause::Timeout(time))
            });
            let Err(Cause::Refused(refusal)) = answered else { return answered };
            match refusal.repeat_after(repeats, self.0.timing.wait_max) {
                Some(wait) if Instant::now() + wait < deadline => sleep(wait).await,
                Some(_) | None => return Err(Cause::Refused(refusal)),
            }
            repeats += 1;
        }
    }
}

fn bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}
