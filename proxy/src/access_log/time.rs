//! `%START_TIME%`: UTC in milliseconds, or a format string.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, fmt::strtime, tz::TimeZone};

/// A `strftime` format with Envoy's own `%f`, `%1f` to `%9f` (fractions of a second) and `%s`
/// (seconds since 1970; `%3s` with milliseconds).
#[derive(Clone, Debug)]
pub(super) struct TimeFormat(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Strftime(Box<str>),
    /// So many digits of the fraction.
    Fraction(usize),
    /// Seconds since 1970, and so many digits of the fraction directly behind.
    Epoch(usize),
}

impl TimeFormat {
    pub(super) fn parse(format: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = format.chars().peekable();
        while let Some(c) = rest.next() {
            if c != '%' {
                plain.push(c);
                continue;
            }
            let digits = rest
                .next_if(char::is_ascii_digit)
                .and_then(|c| c.to_digit(10));
            let piece = match (digits, rest.next()) {
                (digits, Some('f')) => Piece::Fraction(digits.unwrap_or(9) as usize),
                (digits, Some('s')) => Piece::Epoch(digits.unwrap_or(0) as usize),
                (None, Some(c)) => {
                    plain.push('%');
                    plain.push(c);
                    continue;
                }
                _ => return Err(format!("malformed time format {format:?}")),
            };
            if !plain.is_empty() {
                pieces.push(Piece::Strftime(std::mem::take(&mut plain).into()));
            }
            pieces.push(piece);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Strftime(plain.into()));
        }
        let format = Self(pieces);
        match format.write(UNIX_EPOCH, &mut Vec::new()) {
            Some(()) => Ok(format),
            None => Err(format!("malformed time format {:?}", format.0)),
        }
    }

    /// `None` for a time outside of years 1 to 9999.
    pub(super) fn write(&self, time: SystemTime, out: &mut Vec<u8>) -> Option<()> {
        let timestamp = Timestamp::try_from(time).ok()?;
        let nanos = format!("{:09}", timestamp.subsec_nanosecond().unsigned_abs());
        for piece in &self.0 {
            match piece {
                Piece::Strftime(format) => {
                    let utc = timestamp.to_zoned(TimeZone::UTC);
                    let text = strtime::format(&**format, &utc).ok()?;
                    out.extend_from_slice(text.as_bytes());
                }
                Piece::Fraction(digits) => out.extend_from_slice(&nanos.as_bytes()[..*digits]),
                Piece::Epoch(digits) => {
                    let seconds = timestamp.as_second();
                    out.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
                    out.extend_from_slice(&nanos.as_bytes()[..*digits]);
                }
            }
        }
        Some(())
    }
}

/// `2026-11-21T04:45:46.443Z`.
pub(super) fn write_utc(time: SystemTime, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let timestamp = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    let time = TimeZone::UTC.to_datetime(timestamp);
    write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond(),
    )
    .expect("writing to a Vec does not fail");
}
