//! Counting the messages of a gRPC request while its bodies pass.
//!
//! A message is five bytes of flags and length, then that many bytes; parts of a body cut it
//! anywhere. Source: gRPC over HTTP/2.

use std::sync::Arc;

use crate::istio::telemetry::Series;

/// Flags and length.
const HEADER: usize = 5;

/// The messages of one request.
#[derive(Debug, Default)]
pub(super) struct Messages {
    request: Frames,
    response: Frames,
    /// As the response says.
    pub(super) status: Option<u32>,
    /// Where they are counted, once that is known.
    series: Option<Arc<Series>>,
}

impl Messages {
    pub(super) fn request_part(&mut self, data: &[u8]) {
        let begun = self.request.count(data);
        if let Some(series) = &self.series {
            series.request_messages.add(begun);
        }
    }

    pub(super) fn response_part(&mut self, data: &[u8]) {
        let begun = self.response.count(data);
        if let Some(series) = &self.series {
            series.response_messages.add(begun);
        }
    }

    /// Counts there what has passed so far, and from now on; the first call counts.
    pub(super) fn report(&mut self, series: Arc<Series>) {
        if self.series.is_none() {
            series.request_messages.add(self.request.messages);
            series.response_messages.add(self.response.messages);
            self.series = Some(series);
        }
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Frames {
    messages: u64,
    /// Bytes of the next message's header that are there.
    read: usize,
    header: [u8; HEADER],
    /// Bytes of the message that are to come.
    left: u64,
}

impl Frames {
    /// How many messages begin in `data`.
    fn count(&mut self, mut data: &[u8]) -> u64 {
        let before = self.messages;
        while let Some(first) = data.first() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(data.len());
                self.left -= skipped as u64;
                data = &data[skipped..];
                continue;
            }
            if self.read == 0 {
                self.messages += 1;
            }
            self.header[self.read] = *first;
            self.read += 1;
            data = &data[1..];
            if self.read == HEADER {
                let [_, length @ ..] = self.header;
                self.left = u32::from_be_bytes(length).into();
                self.read = 0;
            }
        }
        self.messages - before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_are_counted_wherever_parts_cut_them(
            lengths in prop::collection::vec(0usize..300, 0..8),
            cut in 1usize..50,
        ) {
            let mut body = Vec::new();
            for length in &lengths {
                body.push(0);
                body.extend(u32::try_from(*length).expect("small").to_be_bytes());
                body.extend(vec![7; *length]);
            }
            let mut frames = Frames::default();
            let counted: u64 = body.chunks(cut).map(|part| frames.count(part)).sum();
            prop_assert_eq!(counted, lengths.len() as u64);
            prop_assert_eq!(frames.messages, counted);
        }
    }

    #[test]
    fn a_length_beyond_all_bytes_is_one_message() {
        let mut frames = Frames::default();
        assert_eq!(frames.count(&[0, 255, 255, 255, 255, 1, 2, 3]), 1);
        assert_eq!(frames.count(&[0; 100]), 0);
    }
}
