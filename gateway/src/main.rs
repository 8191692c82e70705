//! The API gateway. It has no request path yet, and says so instead of pretending.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("the gateway is not implemented in this version; the load balancer is: see README.md")
}
