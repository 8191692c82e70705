//! A chunked body, byte by byte: chunk-size lines, data and trailers (RFC 9112, 7.1), every line ended by CRLF.
//!
//! Pure. Nothing is kept but the state and the beginning of a trailer's name, so a body costs no memory.

use super::head::{is_control, is_token};
use super::{CHUNK_LINE_BYTES_MAX, Malformed, TRAILER_BYTES_MAX};

/// Fields that would change how the request is framed, routed or authenticated (RFC 9110, 6.5.1).
const FORBIDDEN_TRAILERS: [&[u8]; 12] = [
    b"authorization",
    b"connection",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"cookie",
    b"expect",
    b"host",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];
/// Longer than each of [`FORBIDDEN_TRAILERS`].
const NAME_BYTES_KEPT: usize = 20;

/// How far a chunked body has come.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    at: At,
    /// The chunk's size, then what is left of its data.
    size: u64,
    /// Bytes of the present chunk-size line, or of the trailer section.
    line_bytes: u32,
    name: [u8; NAME_BYTES_KEPT],
    name_bytes: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the first digit of a size.
    #[default]
    Size,
    /// After at least one digit.
    SizeDigits,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    Finished,
}

impl Chunks {
    /// Examines bytes of the body, and says how many of them belong to it.
    ///
    /// # Errors
    /// How many bytes are good, and what is wrong with the next one.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, (usize, Malformed)> {
        let mut good = 0;
        while good < bytes.len() && !self.finished() {
            if self.at == At::Data {
                let taken = (bytes.len() - good).min(usize::try_from(self.size).unwrap_or(usize::MAX));
                self.size -= taken as u64;
                good += taken;
                if self.size == 0 {
                    self.at = At::DataReturn;
                }
                continue;
            }
            self.at = self.step(bytes[good]).map_err(|malformed| (good, malformed))?;
            good += 1;
        }
        Ok(good)
    }

    /// Whether the body's last byte was seen.
    pub(super) fn finished(&self) -> bool {
        self.at == At::Finished
    }

    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        match self.at {
            At::Size | At::SizeDigits | At::Extension | At::SizeLineFeed => {
                self.line_bytes += 1;
                if self.line_bytes > CHUNK_LINE_BYTES_MAX {
                    return Err(Malformed::ChunkLineTooLong);
                }
                self.size_line(byte)
            }
            At::DataReturn if byte == b'\r' => Ok(At::DataLineFeed),
            At::DataLineFeed if byte == b'\n' => Ok(At::Size),
            At::DataReturn | At::DataLineFeed => Err(Malformed::ChunkEnd),
            At::TrailerStart
            | At::TrailerName
            | At::TrailerValue
            | At::TrailerLineFeed
            | At::LastLineFeed => {
                self.line_bytes += 1;
                if self.line_bytes > TRAILER_BYTES_MAX {
                    return Err(Malformed::TrailersTooLarge);
                }
                self.trailer(byte)
            }
            At::Data | At::Finished => Ok(self.at),
        }
    }

    fn size_line(&mut self, byte: u8) -> Result<At, Malformed> {
        match (self.at, byte) {
            (At::SizeLineFeed, b'\n') => {
                self.line_bytes = 0;
                Ok(if self.size == 0 { At::TrailerStart } else { At::Data })
            }
            (At::SizeDigits | At::Extension, b'\r') => Ok(At::SizeLineFeed),
            (At::SizeDigits, b';') => Ok(At::Extension),
            (At::Size | At::SizeDigits, _) => {
                let digit = (byte as char).to_digit(16).ok_or(Malformed::ChunkSize)?;
                // Four bits more must leave the number below 2^63.
                if self.size >= 1 << 59 {
                    return Err(Malformed::ChunkSize);
                }
                self.size = self.size << 4 | u64::from(digit);
                Ok(At::SizeDigits)
            }
            (At::Extension, _) if !is_control(byte) => Ok(At::Extension),
            (At::Extension, _) => Err(Malformed::ChunkExtension),
            (_, _) => Err(Malformed::ChunkSize),
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<At, Malformed> {
        match (self.at, byte) {
            (At::TrailerStart, b'\r') => Ok(At::LastLineFeed),
            (At::LastLineFeed, b'\n') => Ok(At::Finished),
            (At::TrailerStart, _) if is_token(byte) => {
                self.name_bytes = 0;
                self.keep(byte);
                Ok(At::TrailerName)
            }
            (At::TrailerName, b':') => {
                let name = &self.name[..self.name_bytes.min(NAME_BYTES_KEPT)];
                let forbidden = self.name_bytes < NAME_BYTES_KEPT && FORBIDDEN_TRAILERS.contains(&name);
                if forbidden { Err(Malformed::TrailerForbidden) } else { Ok(At::TrailerValue) }
            }
            (At::TrailerName, _) if is_token(byte) => {
                self.keep(byte);
                Ok(At::TrailerName)
            }
            (At::TrailerValue, b'\r') => Ok(At::TrailerLineFeed),
            (At::TrailerValue, _) if !is_control(byte) => Ok(At::TrailerValue),
            (At::TrailerLineFeed, b'\n') => Ok(At::TrailerStart),
            (_, _) => Err(Malformed::Trailer),
        }
    }

    fn keep(&mut self, byte: u8) {
        if let Some(place) = self.name.get_mut(self.name_bytes) {
            *place = byte.to_ascii_lowercase();
        }
        self.name_bytes += 1;
    }
}
