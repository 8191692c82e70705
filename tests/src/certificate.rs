//! A server's certificate and key, made afresh by openssl.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::netns::run;

/// A P-256 key, as most servers have today, in `folder/key.pem`, and in `folder/certificate.pem` a certificate of two days
/// for `name` that it signed itself.
pub fn self_signed(folder: &Path, name: &str) -> Result<()> {
    run(Command::new("openssl")
        .current_dir(folder)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"]))
}
