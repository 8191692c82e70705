//! A key set at a URL: fetched at the start, every so often, and when a token names a key that is not in it.
//!
//! * Fetches run on the runtime of the background, one at a time for each set; requests that need a new key wait for
//!   the fetch that is under way and start none of their own.
//! * After a fetch nobody's token starts another for [`COOLDOWN`], and a key that was not found in one is not
//!   looked for again for [`ABSENT_FOR`]: forged tokens cannot turn the gateway against the issuer.
//! * What was fetched last stays good while fetches fail.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use thiserror::Error;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{JWKS_BYTES_MAX, KeySet, KeySetError};
use crate::authenticate::jwt::Algorithm;

/// From one fetch to the next that a token may start.
pub const COOLDOWN: Duration = Duration::from_secs(5);

/// How long a key that was looked for in vain is not looked for again.
pub const ABSENT_FOR: Duration = Duration::from_secs(60);

/// Names of keys looked for in vain that are remembered.
const ABSENT_MAX: usize = 256;

/// A whole fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// After a first failure; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A key set at a URL.
pub struct Fetched {
    url: String,
    refresh: Duration,
    algorithms: Vec<Algorithm>,
    current: ArcSwapOption<Versioned>,
    /// Fetches that ended, well or not.
    ended: watch::Sender<u64>,
    /// A token asks for a fetch.
    wanted: Notify,
    absent: Mutex<Absent>,
    started: Mutex<bool>,
    /// Fetches that failed.
    failures: AtomicU64,
}

/// A key set, and the how-manieth it is.
#[derive(Debug)]
pub struct Versioned {
    /// The keys.
    pub keys: KeySet,
    /// Counts the sets that differed, from 1.
    pub generation: u64,
}

/// What fetches have shown not to be there.
#[derive(Default)]
struct Absent {
    keys: VecDeque<(String, Instant)>,
    last_fetch: Option<Instant>,
}

#[derive(Debug, Error)]
enum FetchError {
    #[error("{0}")]
    Http(#[from] reqwest::Error),
    #[error("the answer is {0}")]
    Status(u16),
    #[error("{0}")]
    Keys(#[from] KeySetError),
    #[error("no answer within {} s", FETCH_TIMEOUT.as_secs())]
    Timeout,
}

impl Fetched {
    /// A set that is not fetched yet; [`Self::start`] begins.
    pub fn new(url: String, refresh: Duration, algorithms: Vec<Algorithm>) -> Arc<Self> {
        Arc::new(Self {
            url,
            refresh,
            algorithms,
            current: ArcSwapOption::empty(),
            ended: watch::Sender::new(0),
            wanted: Notify::new(),
            absent: Mutex::default(),
            started: Mutex::new(false),
            failures: AtomicU64::new(0),
        })
    }

    /// The set, once it has been fetched.
    pub fn current(&self) -> Option<Arc<Versioned>> {
        self.current.load_full()
    }

    /// Fetches that failed, since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Begins to fetch on this runtime, for as long as the set is in use. Further calls do nothing.
    pub fn start(self: &Arc<Self>, runtime: &Handle) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if !*started {
            *started = true;
            let ended = self.ended.subscribe();
            drop(runtime.spawn(keep_fresh(Arc::downgrade(self), ended)));
        }
    }

    /// The set after a fetch, if one may help against not knowing the key `id`: waits for its end, well or not.
    pub async fn refetched(&self, id: &str) -> Option<Arc<Versioned>> {
        let mut ended = self.ended.subscribe();
        if !self.may_fetch_for(id, Instant::now()) {
            return None;
        }
        self.wanted.notify_one();
        // Longer than the longest fetch: should the background stand still, the request does not.
        let waited = timeout(FETCH_TIMEOUT + COOLDOWN, ended.changed()).await;
        let set = self.current();
        if matches!(waited, Ok(Ok(()))) && set.as_ref().is_none_or(|set| !set.keys.names(id)) {
            self.note_absent(id, Instant::now());
        }
        set
    }

    /// Whether a fetch is under way or may begin for this key.
    fn may_fetch_for(&self, id: &str, now: Instant) -> bool {
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        absent.keys.retain(|(_, since)| now.duration_since(*since) < ABSENT_FOR);
        let cooled = absent.last_fetch.is_none_or(|last| now.duration_since(last) >= COOLDOWN);
        cooled && !absent.keys.iter().any(|(known, _)| known == id)
    }

    fn note_absent(&self, id: &str, now: Instant) {
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        if absent.keys.iter().any(|(known, _)| known == id) {
            return;
        }
        if absent.keys.len() == ABSENT_MAX {
            absent.keys.pop_front();
        }
        absent.keys.push_back((id.to_owned(), now));
    }

    /// Fetches once.
    async fn fetch(&self) -> Result<(), FetchError> {
        let keys = match timeout(FETCH_TIMEOUT, download(&self.url)).await {
            Ok(text) => KeySet::from_jwks(&text?, &self.algorithms)?,
            Err(_) => return Err(FetchError::Timeout),
        };
        let before = self.current();
        if before.as_ref().is_some_and(|before| before.keys.same(&keys)) {
            return Ok(());
        }
        let generation = before.map_or(1, |before| before.generation + 1);
        tracing::info!(url = %self.url, generation, "key set fetched");
        self.current.store(Some(Arc::new(Versioned { keys, generation })));
        Ok(())
    }

    fn end(&self) {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner).last_fetch = Some(Instant::now());
        self.ended.send_modify(|ended| *ended += 1);
    }
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Fetches until nobody has the set any more. `_ended` keeps the count alive.
async fn keep_fresh(set: Weak<Fetched>, _ended: watch::Receiver<u64>) {
    let mut retry = RETRY_MIN;
    loop {
        let Some(present) = set.upgrade() else { return };
        let pause = match present.fetch().await {
            Ok(()) => {
                retry = RETRY_MIN;
                present.refresh
            }
            Err(error) => {
                present.failures.fetch_add(1, Relaxed);
                tracing::warn!(url = %present.url, %error, kept = present.current().is_some(), "no key set");
                let pause = retry;
                retry = (retry * 2).min(RETRY_MAX);
                pause
            }
        };
        present.end();
        rest(present, &set, pause).await;
    }
}

/// Until the next fetch is due or wanted, or the set is given up; looked after once a second.
async fn rest(present: Arc<Fetched>, set: &Weak<Fetched>, pause: Duration) {
    let until = Instant::now() + pause;
    let mut held = Some(present);
    loop {
        let Some(present) = held.take().or_else(|| set.upgrade()) else { return };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = present.wanted.notified() => return,
            () = sleep(left.min(Duration::from_secs(1))) => {}
        }
    }
}

async fn download(url: &str) -> Result<Vec<u8>, FetchError> {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let mut response =
        client.get(url).header("accept", "application/jwk-set+json, application/json").send().await?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(FetchError::Status(response.status().as_u16()));
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if text.len() + chunk.len() > JWKS_BYTES_MAX {
            return Err(KeySetError::Size.into());
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}
