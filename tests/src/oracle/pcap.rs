//! Writes frames where `tcpdump -r` and Wireshark read them: classic pcap, Ethernet.

use std::path::Path;
use std::{fs, io};

/// Writes one file; directories above it are made.
pub fn write(path: &Path, frames: &[&[u8]]) -> io::Result<()> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const ETHERNET: u32 = 1;
    const SNAP_LEN: u32 = 65_535;
    let mut bytes = Vec::new();
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(4u16.to_le_bytes());
    for word in [0, 0, SNAP_LEN, ETHERNET] {
        bytes.extend(word.to_le_bytes());
    }
    for (number, frame) in (0u32..).zip(frames) {
        let len = frame.len() as u32;
        for word in [number, 0, len, len] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(*frame);
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, bytes)
}

/// The first bytes as `hexdump -C` shows them, without the text.
pub fn hexdump(bytes: &[u8]) -> String {
    const SHOWN: usize = 160;
    let lines = bytes[..bytes.len().min(SHOWN)].chunks(16).enumerate().map(|(index, line)| {
        let words: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("\n      {:04x}  {}", index * 16, words.join(" "))
    });
    format!("{} bytes{}", bytes.len(), lines.collect::<String>())
}
