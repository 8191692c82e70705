//! Reopening, and files that must stay as they are.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn shop() -> Desired {
    let spec = serde_json::from_value(serde_json::json!({
        "name": "shop", "address": "10.0.0.1", "port": 80,
        "health_check": { "type": "http", "path": "/healthz", "host": "shop.example" },
        "backends": [{ "address": "10.1.0.1" }, { "address": "10.1.0.2", "weight": 0 }],
    }));
    let mut service = Service::new(&spec.unwrap()).unwrap();
    let drain =
        Drain { since_unix_seconds: 5, deadline_unix_seconds: Some(9), on_deadline: OnDeadline::Reset };
    service.backends.get_mut(&"10.1.0.2:80".parse().unwrap()).unwrap().draining = Some(drain);
    let services = [service, media(), far()].map(|service| (service.name.clone(), service));
    Desired { generation: 3, services: services.into() }
}

/// A service of several addresses and ports, with a drained backend that has no port.
fn media() -> Service {
    let spec = serde_json::from_value(serde_json::json!({
        "name": "media", "address": "2001:db8:1::/64", "ports": "8000-8999", "protocol": "udp", "mode": "dsr-gue",
        "quic": { "scheme": "quic-lb", "config_id": 3, "server_id_length": 2 },
        "backends": [{ "address": "10.1.0.1", "server_id": "0a1b" }, { "address": "fd00::1" }],
    }));
    let mut service = Service::new(&spec.unwrap()).unwrap();
    let drain =
        Drain { since_unix_seconds: 5, deadline_unix_seconds: None, on_deadline: OnDeadline::Resteer };
    service.backends.get_mut(&"[fd00::1]:0".parse().unwrap()).unwrap().draining = Some(drain);
    service
}

fn far() -> Service {
    let spec = serde_json::from_value(serde_json::json!({
        "name": "far", "address": "10.0.0.2", "port": 80, "mode": "full-nat", "mss": 1400, "answer_echo": true,
        "answer_arp": false, "fragments": "pass", "backends": [{ "address": "10.1.0.1", "port": 8080 }],
    }));
    Service::new(&spec.unwrap()).unwrap()
}

fn stored(path: &Path) -> Desired {
    let mut store = Embedded::open(path).unwrap();
    let desired = shop();
    store.save(&desired, &names(&desired)).unwrap();
    desired
}

fn names(desired: &Desired) -> Vec<String> {
    desired.services.keys().map(str::to_owned).collect()
}

#[test]
fn what_was_saved_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let mut desired = stored(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing unfinished is left");
    let mut store = Embedded::open(&path).unwrap();
    assert_eq!(store.load().unwrap(), desired);
    let changed = names(&desired);
    desired.services.clear();
    desired.generation = 4;
    store.save(&desired, &changed).unwrap();
    store.reserve(300).unwrap();
    drop(store);
    assert_eq!(Embedded::open(&path).unwrap().load().unwrap(), Desired { generation: 300, ..desired });
}

#[test]
fn a_second_process_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let _first = Embedded::open(&path).unwrap();
    assert!(matches!(Embedded::open(&path), Err(StoreError::InUse(_))));
}

/// A process that is killed leaves the file as it stands on the disk, unclosed.
#[test]
fn a_killed_process_leaves_a_file_that_opens() {
    let directory = tempfile::tempdir().unwrap();
    let (path, left) = (directory.path().join("state.redb"), directory.path().join("left.redb"));
    let mut store = Embedded::open(&path).unwrap();
    store.save(&shop(), &names(&shop())).unwrap();
    fs::copy(&path, &left).unwrap();
    drop(store);
    assert_eq!(Embedded::open(&left).unwrap().load().unwrap(), shop());
}

#[test]
fn what_cannot_be_read_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);

    let foreign = path("foreign.redb");
    let transaction = Database::create(&foreign).unwrap().begin_write().unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();

    let newer = path("newer.redb");
    stored(&newer);
    let transaction = Database::open(&newer).unwrap().begin_write().unwrap();
    transaction.open_table(NUMBERS).unwrap().insert(SCHEMA_KEY, SCHEMA + 1).unwrap();
    transaction.commit().unwrap();

    let invalid = path("invalid.redb");
    stored(&invalid);
    let transaction = Database::open(&invalid).unwrap().begin_write().unwrap();
    transaction.open_table(SERVICES).unwrap().insert("shop", &b"{\"service\":1}"[..]).unwrap();
    transaction.commit().unwrap();

    fs::write(path("text"), "not a database\n").unwrap();
    fs::write(path("empty"), "").unwrap();
    stored(&path("cut"));
    let whole = fs::read(path("cut")).unwrap();
    fs::write(path("cut"), &whole[..whole.len() / 2]).unwrap();
    stored(&path("scratched"));
    let mut bytes = fs::read(path("scratched")).unwrap();
    let value = b"shop.example";
    let places: Vec<_> =
        (0..bytes.len() - value.len()).filter(|at| bytes[*at..].starts_with(value)).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place] = b'S';
    }
    fs::write(path("scratched"), &bytes).unwrap();

    for (name, expected) in [
        ("foreign.redb", "it belongs to another program"),
        ("newer.redb", "written in schema 2, this program knows 1"),
        ("invalid.redb", "service shop: invalid type"),
        ("text", "not a store that this program can read"),
        ("empty", "not a store that this program can read"),
        ("cut", "not a store that this program can read"),
        ("scratched", "not a store that this program can read"),
    ] {
        let before = fs::read(path(name)).unwrap();
        let error = match Embedded::open(&path(name)) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{name} was opened"),
        };
        assert!(error.contains(expected), "{name}: {error}");
        assert!(error.contains(name) && error.contains("left as it"), "{error}");
        assert!(fs::read(path(name)).unwrap() == before, "{name} was changed");
    }
}
