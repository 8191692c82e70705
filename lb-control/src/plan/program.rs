//! What concerns the program as a whole: what it does, its settings, and the pool of `full-nat`.

use std::collections::BTreeMap;

use lb_common::{Address, Settings, limits::POOL_ADDRESSES};

use super::{Changed, Planner};
use crate::{
    datapath::Change,
    target::{Target, TargetService},
};

impl Planner<'_> {
    /// What is enabled stays so until the next start: each change of it loads the program anew. So
    /// what is planned already needs no look.
    pub fn enable(&mut self, target: &Target, changed: &Changed) {
        let services = changed.services(target).map(TargetService::features);
        let wanted = services.fold(target.features_of_pool(), |all, one| all | one);
        let known = self.installed.features;
        if !known.contains(wanted) {
            self.change(Change::Enable(known | wanted));
        }
    }

    /// Addresses before the settings that count them, and settings before what they count no more is emptied.
    pub fn settings_and_pool(&mut self, target: &Target) {
        let pool = pool(target);
        for (&index, &address) in &pool {
            if self.installed.pool.get(&index) != Some(&address) {
                self.change(Change::PutPool(index, address));
            }
        }
        let wanted = Settings { hash_keys: self.installed.settings.hash_keys, ..target.program };
        if self.installed.settings != wanted {
            self.change(Change::PutSettings(wanted));
        }
        let gone: Vec<u32> =
            self.installed.pool.keys().filter(|index| !pool.contains_key(index)).copied().collect();
        for index in gone {
            self.change(Change::PutPool(index, Address::default()));
        }
    }
}

/// By index in `POOL`: IPv4 addresses from the start on, IPv6 ones from the middle.
fn pool(target: &Target) -> BTreeMap<u32, Address> {
    let (ipv4, ipv6): (Vec<Address>, Vec<Address>) =
        target.pool.iter().copied().partition(|address| address.is_ipv4());
    let within = POOL_ADDRESSES as usize;
    (0..)
        .zip(ipv4.into_iter().take(within))
        .chain((POOL_ADDRESSES..).zip(ipv6.into_iter().take(within)))
        .collect()
}
