//! Services by name, shared between one desired state and the next: a copy costs a pointer for each hundred of them,
//! and what did not change is told by it. Pure.
//!
//! Invariant: names ascend within a chunk and from chunk to chunk, and no chunk is empty.

use std::{cmp::Ordering, ops::Index, sync::Arc};

use super::Service;

/// A chunk of so many is cut in two. An order copies the one that it touches and the list of all: with 10,000 services
/// both are about as long.
const CHUNK_MAX: usize = 128;

/// Services by name.
#[derive(Clone, Debug, Default)]
pub struct Services {
    chunks: Vec<Arc<Chunk>>,
    len: usize,
}

type Chunk = Vec<(Arc<str>, Arc<Service>)>;

impl Services {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The service of that name.
    pub fn get(&self, name: &str) -> Option<&Service> {
        self.get_shared(name).map(Arc::as_ref)
    }

    /// The service of that name, as it is shared.
    pub fn get_shared(&self, name: &str) -> Option<&Arc<Service>> {
        let (chunk, index) = self.find(name).ok()?;
        Some(&self.chunks[chunk][index].1)
    }

    /// The service of that name, to change it here and in no other state.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Service> {
        let (chunk, index) = self.find(name).ok()?;
        Some(Arc::make_mut(&mut Arc::make_mut(&mut self.chunks[chunk])[index].1))
    }

    /// Whether there is one of that name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Puts a service under a name; returns the one that was there.
    pub fn insert(&mut self, name: String, service: Service) -> Option<Arc<Service>> {
        let service = Arc::new(service);
        match self.find(&name) {
            Ok((chunk, index)) => {
                Some(std::mem::replace(&mut Arc::make_mut(&mut self.chunks[chunk])[index].1, service))
            }
            Err((chunk, index)) => {
                if self.chunks.is_empty() {
                    self.chunks.push(Arc::default());
                }
                let entries = Arc::make_mut(&mut self.chunks[chunk]);
                entries.insert(index, (name.into(), service));
                if entries.len() >= CHUNK_MAX {
                    let rest = entries.split_off(entries.len() / 2);
                    self.chunks.insert(chunk + 1, Arc::new(rest));
                }
                self.len += 1;
                None
            }
        }
    }

    /// Takes the service of that name out.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Service>> {
        let (chunk, index) = self.find(name).ok()?;
        let entries = Arc::make_mut(&mut self.chunks[chunk]);
        let (_, service) = entries.remove(index);
        if entries.is_empty() {
            self.chunks.remove(chunk);
        }
        self.len -= 1;
        Some(service)
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Names, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> + Clone {
        self.entries().map(|(name, _)| name.as_ref())
    }

    /// Services in the order of their names.
    pub fn values(&self) -> impl Iterator<Item = &Service> + Clone {
        self.entries().map(|(_, service)| service.as_ref())
    }

    /// Services as they are shared, in the order of their names.
    pub fn shared(&self) -> impl Iterator<Item = &Arc<Service>> + Clone {
        self.entries().map(|(_, service)| service)
    }

    /// Names of services that differ, or that only one of the two has, in order. What is shared is not looked at.
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let (mut ours, mut theirs) = (Cursor::new(self), Cursor::new(other));
        let mut names = Vec::new();
        loop {
            Cursor::skip_shared(&mut ours, &mut theirs);
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => return names,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((_, one)), Some((_, two))) if Arc::ptr_eq(one, two) => Ordering::Equal,
                (Some((one, _)), Some((two, _))) => one.cmp(two),
            };
            let one = if order.is_le() { ours.next() } else { None };
            let two = if order.is_ge() { theirs.next() } else { None };
            let is_same = match (one, two) {
                (Some((_, one)), Some((_, two))) => Arc::ptr_eq(one, two) || one == two,
                _ => false,
            };
            if let (false, Some((name, _))) = (is_same, one.or(two)) {
                names.push(name.as_ref());
            }
        }
    }

    fn entries(&self) -> impl Iterator<Item = &(Arc<str>, Arc<Service>)> + Clone {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// Where a name is, or where it would be: a chunk, and an index in it.
    fn find(&self, name: &str) -> Result<(usize, usize), (usize, usize)> {
        let after = self.chunks.partition_point(|chunk| chunk[0].0.as_ref() <= name);
        let chunk = after.saturating_sub(1);
        let Some(entries) = self.chunks.get(chunk) else { return Err((0, 0)) };
        match entries.binary_search_by(|(other, _)| other.as_ref().cmp(name)) {
            Ok(index) => Ok((chunk, index)),
            Err(index) => Err((chunk, index)),
        }
    }
}

/// A place in the services of one state.
struct Cursor<'a> {
    /// The chunk that it is in, and those after it.
    chunks: &'a [Arc<Chunk>],
    index: usize,
}

impl<'a> Cursor<'a> {
    fn new(services: &'a Services) -> Self {
        Self { chunks: &services.chunks, index: 0 }
    }

    fn peek(&self) -> Option<&'a (Arc<str>, Arc<Service>)> {
        self.chunks.first().map(|chunk| &chunk[self.index])
    }

    fn next(&mut self) -> Option<&'a (Arc<str>, Arc<Service>)> {
        let entry = self.peek()?;
        self.index += 1;
        if self.index == self.chunks[0].len() {
            (self.chunks, self.index) = (&self.chunks[1..], 0);
        }
        Some(entry)
    }

    /// Goes on to where the two begin chunks of their own.
    fn skip_shared(one: &mut Self, other: &mut Self) {
        while one.index == 0
            && other.index == 0
            && let ([first, rest @ ..], [second, others @ ..]) = (one.chunks, other.chunks)
            && Arc::ptr_eq(first, second)
        {
            (one.chunks, other.chunks) = (rest, others);
        }
    }
}

impl PartialEq for Services {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other).is_empty()
    }
}

impl Index<&str> for Services {
    type Output = Service;

    fn index(&self, name: &str) -> &Service {
        self.get(name).unwrap_or_else(|| panic!("there is no service {name}"))
    }
}

impl<const N: usize> From<[(String, Service); N]> for Services {
    fn from(services: [(String, Service); N]) -> Self {
        services.into_iter().collect()
    }
}

impl FromIterator<(String, Service)> for Services {
    fn from_iter<I: IntoIterator<Item = (String, Service)>>(services: I) -> Self {
        let mut all = Self::default();
        for (name, service) in services {
            all.insert(name, service);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceSpec;

    fn service(name: &str, port: u16) -> (String, Service) {
        let spec = serde_json::json!({ "name": name, "address": "192.0.2.1", "port": port, "backends": [] });
        let spec: ServiceSpec = serde_json::from_value(spec).expect("it is a service");
        (name.to_owned(), Service::new(&spec).expect("it keeps the rules"))
    }

    #[test]
    fn a_copy_shares_what_it_does_not_change() {
        let before: Services = [service("a", 1), service("b", 2), service("c", 3)].into();
        let mut after = before.clone();
        after.get_mut("b").expect("it is there").answer_echo ^= true;
        let shared = before.shared().zip(after.shared()).map(|(one, two)| Arc::ptr_eq(one, two));
        assert_eq!(shared.collect::<Vec<_>>(), [true, false, true]);
        assert_ne!(before["b"], after["b"]);
    }

    #[test]
    fn differences_are_told_by_name() {
        let before: Services = [service("a", 1), service("b", 2), service("c", 3), service("e", 5)].into();
        let mut after = before.clone();
        assert_eq!(before.differences(&after), [""; 0]);
        assert_eq!(before, after);
        after.remove("a");
        after.get_mut("b").expect("it is there").answer_echo ^= true;
        // As it was, but not shared.
        after.insert("c".into(), service("c", 3).1);
        after.insert("d".into(), service("d", 4).1);
        after.insert("f".into(), service("f", 6).1);
        for (one, two) in [(&before, &after), (&after, &before)] {
            assert_eq!(one.differences(two), ["a", "b", "d", "f"]);
            assert_ne!(one, two);
        }
    }

    /// Every change of several hundred services, in every chunk, beside a map of the standard library.
    #[test]
    fn many_services_are_kept_and_compared_like_a_map() {
        let name = |number: usize| format!("s{:03}", number * 7_919 % 1_000);
        let mut all = Services::default();
        let mut map = std::collections::BTreeMap::new();
        let mut states = vec![(all.clone(), map.clone())];
        for number in 0..1_500 {
            let name = name(number);
            let port = 1 + number as u16;
            if number % 3 == 2 || number > 1_200 {
                assert_eq!(all.remove(&name).is_some(), map.remove(&name).is_some(), "{name}");
            } else {
                let known = all.insert(name.clone(), service(&name, port).1).is_some();
                assert_eq!(known, map.insert(name, port).is_some());
            }
            if number % 100 == 0 {
                states.push((all.clone(), map.clone()));
            }
        }
        states.push((all, map));
        for (all, map) in &states {
            let ports = |service: &Service| service.ports.first;
            assert!(all.values().map(ports).eq(map.values().copied()));
            assert!(all.keys().eq(map.keys()));
            assert_eq!((all.len(), all.is_empty()), (map.len(), map.is_empty()));
            assert!(map.iter().all(|(name, port)| all.get(name).map(ports) == Some(*port)));
            assert!(all.chunks.iter().all(|chunk| (1..CHUNK_MAX).contains(&chunk.len())));
        }
        for ((one, first), (other, second)) in
            states.iter().flat_map(|one| states.iter().map(move |two| (one, two)))
        {
            let names =
                first.keys().chain(second.keys()).filter(|name| first.get(*name) != second.get(*name));
            let names: std::collections::BTreeSet<&str> = names.map(String::as_str).collect();
            assert!(one.differences(other).into_iter().eq(names));
        }
    }
}
