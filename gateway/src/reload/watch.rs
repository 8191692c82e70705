//! Notices that a configuration's file, or a certificate that it names, has changed: written in place, renamed over by an editor, or swapped by a
//! symbolic link somewhere on its path. Directories are watched, because a file that is replaced takes its watch
//! along; and the content decides, so that neither a doubled nor a lost event does harm.

use std::{
    fs, io, iter,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// Writers write in several steps: the file is read when it has been left alone for so long.
const SETTLE: Duration = Duration::from_millis(50);
/// File systems without events are looked at all the same.
const LOOK: Duration = Duration::from_secs(5);

/// Watches a configuration's file, and those that it names.
pub struct FileWatch {
    configuration: Watched,
    /// Certificates and keys.
    named: Vec<Watched>,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    directories: Vec<PathBuf>,
}

/// One file, and the digest of its content when it was last looked at.
struct Watched {
    path: PathBuf,
    seen: Option<Vec<u8>>,
}

impl FileWatch {
    /// Watches `path`, from its present content on. Where events cannot be had, looking now and then suffices.
    pub fn new(path: &Path) -> Self {
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the file is no news.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                notify.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "no file events: looking every {LOOK:?}"))
            .ok();
        let configuration = Watched::new(path.to_owned());
        let (named, directories) = (Vec::new(), Vec::new());
        let mut watch = Self { configuration, named, changed, watcher, directories };
        watch.follow();
        watch
    }

    /// Watches these too, in the place of those named before. What is watched already keeps what was seen of it.
    pub fn also(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let mut before = std::mem::take(&mut self.named);
        for path in paths {
            if self.named.iter().any(|named| named.path == path) {
                continue;
            }
            let known = before.iter().position(|watched| watched.path == path);
            let watched = known.map(|index| before.swap_remove(index));
            self.named.push(watched.unwrap_or_else(|| Watched::new(path)));
        }
        self.follow();
    }

    /// Waits until the content of one is another, and is left alone.
    pub async fn changed(&mut self) {
        loop {
            let _ = timeout(LOOK, self.changed.notified()).await;
            while timeout(SETTLE, self.changed.notified()).await.is_ok() {}
            // A symbolic link may lead elsewhere now.
            self.follow();
            let (mut changed, mut missing) = (false, false);
            for watched in self.all() {
                match watched.look() {
                    Ok(other) => changed |= other,
                    // Between the two steps of a replacement there may be no file.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => missing = true,
                    Err(error) => tracing::warn!(%error, "cannot read {}", watched.path.display()),
                }
            }
            if changed {
                return;
            }
            if missing {
                sleep(SETTLE).await;
            }
        }
    }

    /// All were read by somebody else, at their own wish.
    pub fn seen_now(&mut self) {
        for watched in self.all() {
            // What cannot be read now was seen before.
            let _ = watched.look();
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Watched> {
        iter::once(&mut self.configuration).chain(&mut self.named)
    }

    fn follow(&mut self) {
        let mut directories: Vec<_> = self.all().flat_map(|watched| directories(&watched.path)).collect();
        directories.sort_unstable();
        directories.dedup();
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.directories.iter().filter(|directory| !directories.contains(directory)) {
            let _ = watcher.unwatch(gone);
        }
        for new in directories.iter().filter(|directory| !self.directories.contains(directory)) {
            let _ = watcher.watch(new, RecursiveMode::NonRecursive);
        }
        self.directories = directories;
    }
}

impl Watched {
    fn new(path: PathBuf) -> Self {
        let mut watched = Self { path, seen: None };
        // A file that is not there yet changes when it comes.
        let _ = watched.look();
        watched
    }

    /// Whether it has changed since.
    fn look(&mut self) -> io::Result<bool> {
        // A digest, because a private key need not lie in memory once more.
        let digest = digest(&SHA256, &fs::read(&self.path)?).as_ref().to_vec();
        let changed = self.seen.as_ref() != Some(&digest);
        self.seen = Some(digest);
        Ok(changed)
    }
}

/// The directories in which a change may change the file: of the file itself, and of every link on the way.
fn directories(path: &Path) -> Vec<PathBuf> {
    const LINKS_MAX: usize = 16;
    let mut found = Vec::new();
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let parent = match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        if !found.contains(&parent) {
            found.push(parent.clone());
        }
        // A link may stand at the end or, as in mounted configuration maps, in a directory's place.
        let link = at.ancestors().find_map(|part| Some((part.to_owned(), fs::read_link(part).ok()?)));
        let Some((part, target)) = link else { break };
        let beside = part.parent().map(Path::to_owned).unwrap_or_default();
        if !beside.as_os_str().is_empty() && !found.contains(&beside) {
            found.push(beside.clone());
        }
        let rest = at.strip_prefix(&part).map(Path::to_owned).unwrap_or_default();
        at = beside.join(target);
        if !rest.as_os_str().is_empty() {
            at = at.join(rest);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn expect_change(watch: &mut FileWatch) {
        timeout(Duration::from_secs(20), watch.changed()).await.expect("the change is noticed");
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let file = at("gateway.yaml");
        fs::write(&file, "one").unwrap();
        let mut watch = FileWatch::new(&file);
        fs::write(&file, "two").unwrap();
        expect_change(&mut watch).await;
        fs::write(at("new"), "three").unwrap();
        fs::rename(at("new"), &file).unwrap();
        expect_change(&mut watch).await;
        fs::remove_file(&file).unwrap();
        fs::write(&file, "four").unwrap();
        expect_change(&mut watch).await;
        let seen = watch.configuration.seen.as_deref();
        assert_eq!(seen, Some(digest(&SHA256, b"four").as_ref()));
    }

    #[tokio::test]
    async fn a_swapped_link_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (version, content) in [("v1", "one"), ("v2", "two"), ("v3", "three")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("gateway.yaml"), content).unwrap();
        }
        symlink("v1", at("data")).unwrap();
        symlink("data/gateway.yaml", at("gateway.yaml")).unwrap();
        let mut watch = FileWatch::new(&at("gateway.yaml"));
        for version in ["v2", "v3"] {
            symlink(version, at("next")).unwrap();
            fs::rename(at("next"), at("data")).unwrap();
            expect_change(&mut watch).await;
        }
        let seen = watch.configuration.seen.as_deref();
        assert_eq!(seen, Some(digest(&SHA256, b"three").as_ref()));
        let followed = watch.directories.clone();
        assert!(followed.contains(&at("v3")) && !followed.contains(&at("v1")), "{followed:?}");
    }

    #[tokio::test]
    async fn what_the_configuration_names_is_watched_as_long_as_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let [file, one, two] = ["gateway.yaml", "one.pem", "two.pem"].map(|name| directory.path().join(name));
        for path in [&file, &one] {
            fs::write(path, "before").unwrap();
        }
        let mut watch = FileWatch::new(&file);
        watch.also([one.clone(), two.clone(), one.clone()]);
        fs::write(&one, "after").unwrap();
        expect_change(&mut watch).await;
        fs::write(&two, "new").unwrap();
        expect_change(&mut watch).await;
        watch.also([two]);
        fs::write(&one, "after all").unwrap();
        assert!(timeout(Duration::from_millis(300), watch.changed()).await.is_err());
    }

    #[tokio::test]
    async fn the_same_content_is_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.yaml");
        fs::write(&file, "one").unwrap();
        let mut watch = FileWatch::new(&file);
        fs::write(&file, "one").unwrap();
        assert!(timeout(Duration::from_millis(300), watch.changed()).await.is_err());
    }
}
