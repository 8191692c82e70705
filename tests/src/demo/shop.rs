//! The shop: customers who look, fill a cart and order; and what became of every order.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context as _, Result, ensure};
use hyper::{Method, body::Bytes};
use serde_json::Value;

use crate::{
    demo::{cast::Part, stage::Stage},
    http::{Answer, Ask},
    instance::journal,
    load::Script,
};

/// As the example files have it, by its digest.
const KEY: &str = "shop-front-of-the-demo-0123456789";

/// Customers, and the orders that they were told are placed.
#[derive(Default)]
pub struct Shop {
    turns: AtomicU64,
    answered: Mutex<BTreeSet<String>>,
}

/// What the servers know of the orders.
#[derive(Debug, PartialEq, Eq)]
pub struct Orders {
    /// Customers know that these are placed.
    pub answered: usize,
    /// Placed, but the answer was lost.
    pub unanswered: usize,
}

impl Script for Shop {
    fn ask(&self, worker: usize) -> Ask {
        let turn = self.turns.fetch_add(1, Relaxed);
        match turn % 4 {
            0 | 1 => Ask::get("/shop/items"),
            2 => Ask::get(format!("/shop/carts/{worker}")).with("x-api-key", KEY),
            _ => order(&format!("{worker}-{turn}")),
        }
    }

    fn judge(&self, worker: usize, ask: &Ask, answer: &Answer) -> Result<(), String> {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let good = match ask.path.as_str() {
            "/shop/items" => body["items"].as_array().is_some_and(|items| items.len() == 3),
            "/shop/orders" => self.note(ask, &body),
            _ => body["cart"] == worker.to_string().as_str(),
        };
        if good { Ok(()) } else { Err(format!("{}: {body}", ask.path)) }
    }
}

impl Shop {
    /// The order that was asked for is the one that was placed, and only now.
    fn note(&self, ask: &Ask, answer: &Value) -> bool {
        let asked: Value = serde_json::from_slice(&ask.body).unwrap_or_default();
        let order = answer["order"].as_str().unwrap_or_default().to_string();
        let new = self.answered.lock().expect("unpoisoned").insert(order);
        new && answer["order"] == asked["order"] && answer["status"] == "placed"
    }

    /// Compares the customers' memory with the journals of these instances; every order stands there once.
    /// Call it while no order is under way.
    pub fn audit(&self, directory: &Path, parts: &[Part]) -> Result<Orders> {
        let mut placed = BTreeMap::<String, u32>::new();
        for part in parts.iter().filter(|part| part.service == "checkout") {
            let text = fs::read_to_string(journal(directory, &part.name())).unwrap_or_default();
            for order in text.lines() {
                *placed.entry(order.to_string()).or_default() += 1;
            }
        }
        compare(&self.answered.lock().expect("unpoisoned"), &placed)
    }
}

fn compare(answered: &BTreeSet<String>, placed: &BTreeMap<String, u32>) -> Result<Orders> {
    let twice: Vec<_> = placed.iter().filter(|(_, count)| **count > 1).map(|(order, _)| order).collect();
    ensure!(twice.is_empty(), "placed more than once: {twice:?}");
    let lost: Vec<_> = answered.iter().filter(|order| !placed.contains_key(*order)).collect();
    ensure!(lost.is_empty(), "customers were told of orders that nobody has: {lost:?}");
    Ok(Orders { answered: answered.len(), unanswered: placed.len() - answered.len() })
}

fn order(id: &str) -> Ask {
    let body =
        format!("{{\"order\":\"{id}\",\"lines\":[{{\"sku\":\"lamp\",\"quantity\":2}}],\"total\":99.80}}");
    Ask { method: Method::POST, body: Bytes::from(body), ..Ask::get("/shop/orders") }
        .with("x-api-key", KEY)
        .with("content-type", "application/json")
}

/// What curl meets, on connections of its own.
pub fn prove(stage: &Stage, mut say: impl FnMut(&str)) -> Result<()> {
    let reply = stage.curl("/shop/items", &[])?;
    ensure!(reply.status == 200 && reply.body.contains("\"price\":49.90"), "{reply:?}");
    say(&format!("  curl of the catalogue, by everybody: {}", reply.body));
    let reply = stage.curl("/shop/carts/7", &[])?;
    ensure!(reply.status == 401, "a cart without a key: {reply:?}");
    let reply = stage.curl("/shop/carts/7", &[&format!("x-api-key: {KEY}")])?;
    ensure!(reply.status == 200, "a cart with a key: {reply:?}");
    let server = reply.header("x-server").context("who served it")?;
    say(&format!("  curl of a cart without an API key: 401; with one it was served by {server}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_neither_lost_nor_placed_twice() {
        let told = |orders: &[&str]| orders.iter().map(|order| order.to_string()).collect::<BTreeSet<_>>();
        let placed = |orders: &[(&str, u32)]| {
            orders.iter().map(|(order, count)| (order.to_string(), *count)).collect::<BTreeMap<_, _>>()
        };
        let orders = compare(&told(&["a", "b"]), &placed(&[("a", 1), ("b", 1), ("c", 1)])).unwrap();
        assert_eq!(orders, Orders { answered: 2, unanswered: 1 });
        assert!(compare(&told(&["a"]), &placed(&[("a", 2)])).is_err());
        assert!(compare(&told(&["a", "b"]), &placed(&[("a", 1)])).is_err());
    }
}
