//! A key set at a URL: fetched at the start, every so often, and when a token names a key that is not in it.
//!
//! * Fetches run on the runtime of the background, one at a time for each set; requests that need a new key wait for
//!   the fetch that is under way and start none of their own. When they may start one: [`super::demand`].
//! * What was fetched last stays good while fetches fail.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
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

use super::{JWKS_BYTES_MAX, KeySet, KeySetError, demand::Demand};
use crate::{authenticate::jwt::Algorithm, clock::now_ns};

/// A whole fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for a fetch. Longer than one takes: should the background stand still, the request does
/// not.
const WAIT: Duration = Duration::from_secs(10);

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
    demand: Mutex<Demand>,
    /// One for all fetches: its connection is kept, its trust anchors are read once.
    client: OnceLock<reqwest::Client>,
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
            demand: Mutex::default(),
            client: OnceLock::new(),
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

    /// The present set, after a fetch if one may bring the key `id`: waits for its end, well or not.
    pub async fn refetched(&self, id: &str) -> Option<Arc<Versioned>> {
        let mut ended = self.ended.subscribe();
        let named = |set: &Arc<Versioned>| set.keys.names(id);
        // A fetch may have brought it a moment ago.
        if let Some(set) = self.current().filter(named) {
            return Some(set);
        }
        let Some(asked) = self.demand().ask(id, now_ns()) else {
            return self.current();
        };
        self.wanted.notify_one();
        let _ = timeout(WAIT, ended.changed()).await;
        let set = self.current();
        if !set.as_ref().is_some_and(named) {
            self.demand().not_found(id, asked, now_ns());
        }
        set
    }

    fn demand(&self) -> MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches once.
    async fn fetch(&self) -> Result<(), FetchError> {
        let keys = match timeout(FETCH_TIMEOUT, self.download()).await {
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

    async fn download(&self) -> Result<Vec<u8>, FetchError> {
        let request = self.client()?.get(&self.url);
        let mut response =
            request.header("accept", "application/jwk-set+json, application/json").send().await?;
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

    fn client(&self) -> Result<&reqwest::Client, FetchError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(self.client.get_or_init(|| client))
    }

    fn end(&self, well: bool) {
        self.demand().end(well, now_ns());
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
        present.demand().begin();
        let fetched = present.fetch().await;
        let well = fetched.is_ok();
        let pause = match fetched {
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
        present.end(well);
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
            // The call may be older than the fetch that has answered it.
            () = present.wanted.notified() => if present.demand().is_wanted() { return },
            () = sleep(left.min(Duration::from_secs(1))) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// An issuer on one connection after the other.
    #[derive(Default)]
    struct Issuer {
        fetches: AtomicU64,
        connections: AtomicU64,
        /// Each answer waits for a permit.
        gate: Option<tokio::sync::Semaphore>,
    }

    const JWKS: &str = r#"{"keys":[{"kty":"OKP","kid":"there","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    async fn start(issuer: &Arc<Issuer>) -> Arc<Fetched> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let issuer = issuer.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                issuer.connections.fetch_add(1, Relaxed);
                let mut got = Vec::new();
                while stream.read_buf(&mut got).await.is_ok_and(|read| read > 0) {
                    if !got.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    got.clear();
                    issuer.fetches.fetch_add(1, Relaxed);
                    if let Some(gate) = &issuer.gate {
                        gate.acquire().await.unwrap().forget();
                    }
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", JWKS.len());
                    let _ = stream.write_all(format!("{head}{JWKS}").as_bytes()).await;
                }
            }
        });
        let set = Fetched::new(url, Duration::from_secs(3600), vec![Algorithm::EdDsa]);
        set.start(&Handle::current());
        set
    }

    async fn after(set: &Fetched, ends: u64) {
        let mut ended = set.ended.subscribe();
        let _ = timeout(WAIT, ended.wait_for(|ended| *ended >= ends)).await.expect("a fetch ends").unwrap();
    }

    #[tokio::test]
    async fn fetches_share_one_connection() {
        let issuer = Arc::new(Issuer::default());
        let set = start(&issuer).await;
        after(&set, 1).await;
        for _ in 0..3 {
            set.fetch().await.unwrap();
        }
        assert_eq!((issuer.fetches.load(Relaxed), issuer.connections.load(Relaxed)), (4, 1));
        assert_eq!(set.current().unwrap().generation, 1);
    }

    #[tokio::test]
    async fn tokens_that_come_during_a_fetch_start_no_other() {
        let issuer = Arc::new(Issuer { gate: Some(tokio::sync::Semaphore::new(0)), ..Issuer::default() });
        let set = start(&issuer).await;
        while issuer.fetches.load(Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let asking = (0..50).map(|number| {
            let set = set.clone();
            tokio::spawn(async move { set.refetched(if number == 0 { "there" } else { "forged" }).await })
        });
        let asking: Vec<_> = asking.collect();
        // All of them wait before the answer comes.
        while set.ended.receiver_count() < 51 {
            tokio::task::yield_now().await;
        }
        issuer.gate.as_ref().unwrap().add_permits(100);
        for asked in asking {
            assert!(asked.await.unwrap().is_some());
        }
        let mut ended = set.ended.subscribe();
        let second = timeout(Duration::from_millis(200), ended.wait_for(|ended| *ended > 1)).await;
        assert!(second.is_err() && issuer.fetches.load(Relaxed) == 1);
        // The cooldown keeps nobody from a key that the fetch has brought.
        assert!(set.refetched("there").await.unwrap().keys.names("there"));
    }
}
