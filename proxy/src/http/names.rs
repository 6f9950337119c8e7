//! The case of header names in HTTP/1 heads (`header_key_format`). All of it happens to heads that
//! are written already, in place, for those who ask for it. Trailers stay in lower case.

use ithildin_http1::head::Fields;

use super::headers::Headers;
use crate::config::http::HeaderFormat;

/// The names of one message as its sender wrote them, each once.
#[derive(Debug)]
pub(super) struct Names {
    sent: Box<[Box<[u8]>]>,
    /// Names that were not sent get the case of words.
    proper_others: bool,
}

impl Names {
    /// `None`: they are of no interest.
    pub(super) fn of(fields: &Fields, format: HeaderFormat) -> Option<Self> {
        let HeaderFormat::Preserve { proper_others } = format else {
            return None;
        };
        let sent = fields.sent_names().map(Box::from).collect();
        Some(Self {
            sent,
            proper_others,
        })
    }

    /// Gives `name`, of a header that is passed on or added, the case that it came in. The first of
    /// several decides, as in Envoy.
    fn restore(&self, name: &mut [u8]) {
        let mut sent = self.sent.iter();
        match sent.find(|sent| sent.eq_ignore_ascii_case(name)) {
            Some(sent) => name.copy_from_slice(sent),
            None if self.proper_others => capitalise(name),
            None => {}
        }
    }
}

/// Changes the names in `head`, a whole one of a message with `headers`. What its sender wrote goes
/// before the format of the side that it goes to.
pub(super) fn format(head: &mut [u8], headers: &Headers, format: HeaderFormat) {
    match (headers.names(), format) {
        (Some(names), _) => each_name(head, |name| names.restore(name)),
        (None, HeaderFormat::ProperWords) => each_name(head, capitalise),
        (None, HeaderFormat::Lower | HeaderFormat::Preserve { .. }) => {}
    }
}

fn each_name(head: &mut [u8], change: impl Fn(&mut [u8])) {
    let mut lines = head.split_mut(|byte| *byte == b'\n');
    // The request line, or the status line.
    lines.next();
    for line in lines {
        if let Some(end) = memchr::memchr(b':', line) {
            change(&mut line[..end]);
        }
    }
}

/// The first letter, and each after what is neither letter nor digit (`proper_case_words`).
fn capitalise(name: &mut [u8]) {
    let mut begins = true;
    for byte in name {
        if begins {
            byte.make_ascii_uppercase();
        }
        begins = !byte.is_ascii_alphanumeric();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_with_capitals() {
        let mut head = *b"GET /a:b HTTP/1.1\r\nhost: a:b\r\nx-b3$y: c:d\r\nte: x\r\n\r\n";
        format(&mut head, &Headers::default(), HeaderFormat::ProperWords);
        let expected = "GET /a:b HTTP/1.1\r\nHost: a:b\r\nX-B3$Y: c:d\r\nTe: x\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&head), expected);
    }

    #[test]
    fn names_come_back_as_they_were_sent() {
        let lower = *b"HTTP/1.1 200 OK\r\nx-a: 1\r\nx-a: 2\r\nx-new: 3\r\n\r\n";
        let restored = |proper_others| {
            let names = Names {
                sent: [&b"x-A"[..], b"X-a", b"X-gone"].map(Box::from).into(),
                proper_others,
            };
            let mut head = lower;
            each_name(&mut head, |name| names.restore(name));
            String::from_utf8_lossy(&head).into_owned()
        };
        let expected = "HTTP/1.1 200 OK\r\nx-A: 1\r\nx-A: 2\r\nx-new: 3\r\n\r\n";
        assert_eq!(restored(false), expected);
        assert_eq!(restored(true), expected.replace("x-new", "X-New"));
    }
}
