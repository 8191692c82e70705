//! One instance of one of the stories' services: small, real HTTP, JSON bodies.
//!
//! | service | path | answer |
//! |---|---|---|
//! | `accounts` | `/accounts/{id}` | an account as a core banking system knows it |
//! | `transactions` | `/accounts/{id}/transactions` | its last bookings |
//! | `rates` | `/rates/{currency}` | exchange rates |
//! | `catalogue` | `/items` | what the shop sells |
//! | `cart` | `/carts/{id}` | what is in a cart |
//! | `checkout` | `POST /orders`, its body a JSON object with a member `order` | 201, once the order is in the journal |
//! | all | `/healthz` | 200 as long as it serves, closing included |
//! | all | `/served` | how many requests it answered, these two left out |
//!
//! Amounts are JSON numbers that no double holds; whoever reads them as one is found out. Orders are not
//! idempotent: one that is sent twice is placed twice, and the journal tells.

use std::{
    fs::File,
    io::Write as _,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::Value;
use tests::{
    http::SERVER_HEADER,
    serve::{Counts, listen, serve},
};

#[derive(Parser)]
struct Options {
    /// Which service it is.
    #[arg(long)]
    service: Service,
    /// Its name among the instances.
    #[arg(long)]
    name: String,
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Where checkout writes a line for each order.
    #[arg(long, required_if_eq("service", "checkout"))]
    journal: Option<PathBuf>,
    /// Seconds after SIGTERM in which connections are closed only after an answer.
    #[arg(long, default_value_t = 10)]
    grace: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Service {
    Accounts,
    Transactions,
    Rates,
    Catalogue,
    Cart,
    Checkout,
}

struct Instance {
    service: Service,
    name: HeaderValue,
    journal: Option<File>,
    served: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let append = |path| File::options().create(true).append(true).open(path);
    let instance = Arc::new(Instance {
        service: options.service,
        name: HeaderValue::from_str(&options.name)?,
        journal: options.journal.map(append).transpose()?,
        served: AtomicU64::new(0),
    });
    let listener = listen(options.listen)?;
    let grace = Duration::from_secs(options.grace);
    serve(listener, Arc::new(Counts::default()), grace, move |request, _| instance.clone().answer(request))
        .await
}

type Answer = (StatusCode, String);

impl Instance {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let (status, body) = match path.as_str() {
            "/healthz" => ok("{\"status\":\"ok\"}"),
            "/served" => ok(self.served.load(Relaxed).to_string()),
            path => {
                self.served.fetch_add(1, Relaxed);
                self.serve(path, request).await
            }
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(SERVER_HEADER, self.name.clone());
        response
    }

    async fn serve(&self, path: &str, request: Request<Incoming>) -> Answer {
        let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (self.service, request.method(), words.as_slice()) {
            (Service::Accounts, &Method::GET, ["accounts", id]) => ok(account(id)),
            (Service::Transactions, &Method::GET, ["accounts", id, "transactions"]) => ok(transactions(id)),
            (Service::Rates, &Method::GET, ["rates", currency]) => ok(rates(currency)),
            (Service::Catalogue, &Method::GET, ["items"]) => ok(ITEMS),
            (Service::Cart, &Method::GET, ["carts", id]) => ok(cart(id)),
            (Service::Checkout, &Method::POST, ["orders"]) => self.place(request).await,
            _ => (StatusCode::NOT_FOUND, "{\"error\":\"no such resource\"}".into()),
        }
    }

    /// The order is placed when its line is written; what happens to the answer is another matter.
    async fn place(&self, request: Request<Incoming>) -> Answer {
        let Ok(body) = request.into_body().collect().await else {
            return (StatusCode::BAD_REQUEST, "{\"error\":\"the body broke off\"}".into());
        };
        let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        let order = body["order"].as_str().filter(|order| !order.is_empty() && !order.contains('\n'));
        let (Some(order), Some(mut journal)) = (order, self.journal.as_ref()) else {
            return (StatusCode::UNPROCESSABLE_ENTITY, "{\"error\":\"no order in the body\"}".into());
        };
        match journal.write_all(format!("{order}\n").as_bytes()) {
            Ok(()) => (StatusCode::CREATED, format!("{{\"order\":\"{order}\",\"status\":\"placed\"}}")),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{{\"error\":\"{error}\"}}")),
        }
    }
}

fn ok(body: impl Into<String>) -> Answer {
    (StatusCode::OK, body.into())
}

fn account(id: &str) -> String {
    format!(
        "{{\"accountId\":\"{id}\",\"holderName\":\"Ada Muster\",\"bookedBalance\":1234567890123456.78,\
         \"currency\":\"EUR\",\"riskClass\":\"B2\",\"branch\":{{\"code\":\"0042\",\"teller\":\"x17\"}}}}"
    )
}

fn transactions(id: &str) -> String {
    format!(
        "{{\"entries\":[{{\"id\":\"{id}-3\",\"amount\":-0.10,\"text\":\"Coffee\"}},\
         {{\"id\":\"{id}-2\",\"amount\":-1234567890123456.79,\"text\":\"House\"}},\
         {{\"id\":\"{id}-1\",\"amount\":2469135780246913.57,\"text\":\"Lottery\"}}],\
         \"page\":{{\"size\":3,\"next\":null}}}}"
    )
}

fn rates(base: &str) -> String {
    format!(
        "{{\"base\":\"{base}\",\"quotes\":{{\"CHF\":0.9300,\"JPY\":163.270000000000000001,\"USD\":1.08170}},\
         \"feed\":\"ecb-7\"}}"
    )
}

const ITEMS: &str = "{\"items\":[{\"sku\":\"lamp\",\"price\":49.90},{\"sku\":\"desk\",\"price\":249.00},\
                     {\"sku\":\"chair\",\"price\":129.50}]}";

fn cart(id: &str) -> String {
    format!("{{\"cart\":\"{id}\",\"lines\":[{{\"sku\":\"lamp\",\"quantity\":2}}],\"total\":99.80}}")
}
