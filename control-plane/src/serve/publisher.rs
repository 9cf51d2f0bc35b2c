//! What is served, and who is told that it is different.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use xds::server::{Catalog, Update};

/// A catalogue, and when it was published.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) catalog: Arc<Catalog>,
    pub(super) at: Instant,
}

/// Changes the catalogue.
#[derive(Debug)]
pub struct Publisher {
    /// Publishing is done in turn, and readers do not wait for it.
    turn: Mutex<()>,
    sender: watch::Sender<Published>,
}

impl Default for Publisher {
    fn default() -> Self {
        let published = Published { catalog: Arc::default(), at: Instant::now() };
        Self { turn: Mutex::new(()), sender: watch::Sender::new(published) }
    }
}

impl Publisher {
    /// Makes everything in an update visible in one step, and returns the number of the catalogue
    /// that results. What changes nothing is told to nobody.
    pub fn publish(&self, update: Update) -> u64 {
        let _turn = self.turn.lock();
        let before = self.catalog();
        let Some(next) = before.apply(update) else { return before.sequence() };
        let sequence = next.sequence();
        self.sender.send_replace(Published { catalog: Arc::new(next), at: Instant::now() });
        sequence
    }

    /// What is served now.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.sender.borrow().catalog.clone()
    }

    /// A view of what is served, now and later.
    #[must_use]
    pub fn view(&self) -> CatalogView {
        CatalogView(self.sender.subscribe())
    }
}

/// What is served, now and later. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CatalogView(watch::Receiver<Published>);

impl CatalogView {
    /// The catalogue; [`Self::changed`] reports every later one.
    pub(super) fn current(&mut self) -> Published {
        self.0.borrow_and_update().clone()
    }

    /// The next catalogue. Waits for ever when there will be none. Cancel safe.
    pub(super) async fn changed(&mut self) -> Published {
        if self.0.changed().await.is_err() {
            // The publisher is gone, and what it published last is still what is served.
            std::future::pending::<()>().await;
        }
        self.current()
    }
}
