//! Services by name, shared between one desired state and the next: a copy of all costs a pointer for each, and what
//! did not change is told by it. Pure.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Index,
    sync::Arc,
};

use super::Service;

/// Services by name.
#[derive(Clone, Debug, Default)]
pub struct Services(BTreeMap<String, Arc<Service>>);

impl Services {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The service of that name.
    pub fn get(&self, name: &str) -> Option<&Service> {
        self.0.get(name).map(Arc::as_ref)
    }

    /// The service of that name, to change it here and in no other state.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Service> {
        self.0.get_mut(name).map(Arc::make_mut)
    }

    /// Whether there is one of that name.
    pub fn contains_key(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Puts a service under a name; returns the one that was there.
    pub fn insert(&mut self, name: String, service: Service) -> Option<Arc<Service>> {
        self.0.insert(name, Arc::new(service))
    }

    /// Takes the service of that name out.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Service>> {
        self.0.remove(name)
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Names, in order.
    pub fn keys(&self) -> btree_map::Keys<'_, String, Arc<Service>> {
        self.0.keys()
    }

    /// Services in the order of their names.
    pub fn values(&self) -> impl Iterator<Item = &Service> + Clone {
        self.0.values().map(Arc::as_ref)
    }

    /// Names and services, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Service)> + Clone {
        self.0.iter().map(|(name, service)| (name, service.as_ref()))
    }

    /// Services as they are shared, in the order of their names.
    pub fn shared(&self) -> btree_map::Values<'_, String, Arc<Service>> {
        self.0.values()
    }

    /// Names of services that differ, or that only one of the two has, in order. What is shared is not looked at.
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut names = Vec::new();
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => return names,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((_, one)), Some((_, two))) if Arc::ptr_eq(one, two) => std::cmp::Ordering::Equal,
                (Some((one, _)), Some((two, _))) => one.cmp(two),
            };
            let one = if order.is_le() { ours.next() } else { None };
            let two = if order.is_ge() { theirs.next() } else { None };
            let is_same = match (one, two) {
                (Some((_, one)), Some((_, two))) => Arc::ptr_eq(one, two) || one == two,
                _ => false,
            };
            if let (false, Some((name, _))) = (is_same, one.or(two)) {
                names.push(name.as_str());
            }
        }
    }
}

impl PartialEq for Services {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(one, two): (&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(one, two) || one == two;
        self.0.len() == other.0.len()
            && self.0.keys().eq(other.0.keys())
            && self.0.values().zip(other.0.values()).all(is_same)
    }
}

impl Index<&str> for Services {
    type Output = Service;

    fn index(&self, name: &str) -> &Service {
        &self.0[name]
    }
}

impl<const N: usize> From<[(String, Service); N]> for Services {
    fn from(services: [(String, Service); N]) -> Self {
        services.into_iter().collect()
    }
}

impl FromIterator<(String, Service)> for Services {
    fn from_iter<I: IntoIterator<Item = (String, Service)>>(services: I) -> Self {
        Self(services.into_iter().map(|(name, service)| (name, Arc::new(service))).collect())
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
}
