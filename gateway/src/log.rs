//! The program's own log, to standard error; standard output belongs to the access log. Its level can change.

use std::{io::IsTerminal as _, sync::OnceLock};

use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

/// Libraries are quiet unless asked.
const DEFAULT: &str = "warn,gateway=info";

static LEVEL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Begins to log; `RUST_LOG` wins over the default.
pub fn to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let (filter, level) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(lines).init();
    let _ = LEVEL.set(level);
}

/// What is logged, as `RUST_LOG` is written; nothing, where nothing is.
pub fn level() -> Option<String> {
    LEVEL.get()?.with_current(ToString::to_string).ok()
}

/// Logs what `directives` say from now on, such as `warn,gateway=debug`.
///
/// # Errors
/// They cannot be read, or nothing is logged.
pub fn set_level(directives: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(directives).map_err(|error| error.to_string())?;
    let level = LEVEL.get().ok_or("nothing is logged")?;
    level.reload(filter).map_err(|error| error.to_string())?;
    tracing::info!("the log's level is {directives} now");
    Ok(())
}
