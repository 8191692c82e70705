//! Listeners: where, and what is spoken there.

use std::{collections::BTreeSet, sync::Arc};

use serde_saphyr::Spanned;

use super::Context;
use crate::{
    accept::http2::Http2Settings,
    config::{
        Document, Findings,
        listen::{Http2Document, ListenAddress, ListenDocument, ProxyProtocolDocument, TlsDocument},
    },
    snapshot::{Listener, Place, ProxyProtocol},
    tls::server::ServerTls,
};

/// Permissions of a Unix socket that says nothing of them: its owner and group.
const MODE: u32 = 0o660;
/// What HTTP/2 connections begin with (RFC 9113, 6.9.2), and far below what it allows.
const WINDOW_MIN: u64 = 64 << 10;
const WINDOW_MAX: u64 = 64 << 20;

/// All listeners, in their order.
pub fn compile(document: &Document, context: Context<'_>, findings: &mut Findings) -> Vec<Arc<Listener>> {
    if document.listen.value.is_empty() {
        findings.error(&document.listen, "listen", "name at least one address, such as 0.0.0.0:8080");
    }
    let mut seen = BTreeSet::new();
    let mut listeners = Vec::new();
    for (index, written) in document.listen.value.iter().enumerate() {
        let field = format!("listen[{index}]");
        // Several listeners may ask for a free port.
        let any_port = matches!(&written.value.address, ListenAddress::Tcp(address) if address.port() == 0);
        if !any_port && !seen.insert(&written.value.address) {
            findings.error(written, format!("{field}.address"), "each address once");
        }
        let previous = context.previous.and_then(|previous| previous.listeners.get(index));
        listeners.push(Arc::new(listener(&field, written, context, previous, findings)));
    }
    listeners
}

fn listener(
    field: &str,
    written: &Spanned<ListenDocument>,
    context: Context<'_>,
    previous: Option<&Arc<Listener>>,
    findings: &mut Findings,
) -> Listener {
    let ListenDocument { address, settings } = &written.value;
    let mode = settings.mode.as_ref().map_or(MODE, |mode| {
        if matches!(address, ListenAddress::Tcp(_)) {
            findings.error(mode, format!("{field}.mode"), "is for Unix sockets");
        }
        let parsed = u32::from_str_radix(&mode.value, 8).ok().filter(|mode| *mode <= 0o777);
        if parsed.is_none() {
            findings.error(mode, format!("{field}.mode"), "permissions in octal, such as \"0660\"");
        }
        parsed.unwrap_or(MODE)
    });
    let tls = settings.tls.as_ref().and_then(|tls| {
        let previous = previous.and_then(|previous| previous.tls.as_ref());
        compile_tls(&format!("{field}.tls"), tls, settings.http2, context, previous, findings)
    });
    let proxy_protocol = settings.proxy_protocol.as_ref().map(|written| {
        let ProxyProtocolDocument { from, required } = &written.value;
        if from.is_empty() {
            findings.error(written, format!("{field}.proxy_protocol.from"), "name at least one network");
        }
        ProxyProtocol { from: from.clone(), required: *required }
    });
    Listener { place: Place { address: address.clone(), mode }, tls, http2: settings.http2, proxy_protocol }
}

fn compile_tls(
    field: &str,
    written: &Spanned<TlsDocument>,
    http2: bool,
    context: Context<'_>,
    previous: Option<&ServerTls>,
    findings: &mut Findings,
) -> Option<ServerTls> {
    let document = &written.value;
    if document.certificates.value.is_empty() {
        findings.error(&document.certificates, format!("{field}.certificates"), "name at least one");
        return None;
    }
    if let Some(client) = &document.client
        && document.client_ca.is_none()
    {
        findings.error(client, format!("{field}.client"), "needs client_ca, the authorities of clients");
    }
    let compiled = ServerTls::compile(document, context.directory, http2, previous);
    compiled.map_err(|error| findings.error(written, field, error.to_string())).ok()
}

/// Bounds of HTTP/2 connections.
pub fn http2(document: &Http2Document, findings: &mut Findings) -> Http2Settings {
    for (name, count) in [("streams", document.streams), ("resets", document.resets)] {
        if count == 0 {
            findings.general_error(format!("http2.{name}"), "at least 1");
        }
    }
    for (name, size) in [
        ("stream_window", document.stream_window),
        ("connection_window", document.connection_window),
        ("send_buffer", document.send_buffer),
    ] {
        if !(WINDOW_MIN..=WINDOW_MAX).contains(&size.0) {
            findings.general_error(format!("http2.{name}"), "from 64KiB to 64MiB");
        }
    }
    Http2Settings::from(document)
}
