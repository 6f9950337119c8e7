//! Replies of our own, in bytes that fit.

use hickory_proto::{
    op::{Edns, Header, HeaderCounts, Message, Metadata, ResponseCode},
    rr::Record,
    serialize::binary::{BinEncodable, BinEncoder},
};

/// What we read of a datagram at most; queries are far smaller.
pub(crate) const MAX_DATAGRAM: u16 = 4096;
/// An OPT record without options.
const OPT_BYTES: u16 = 11;
const HEADER_BYTES: usize = 12;
/// Where the header counts the additional records.
const ADDITIONALS_AT: usize = 10;
/// Where the header holds TC.
const FLAGS_AT: usize = 2;
const TRUNCATED: u8 = 0x02;

pub(crate) struct Reply {
    message: Message,
    edns: Option<Edns>,
}

impl Reply {
    /// A reply to `request`, as yet without records.
    pub(crate) fn new(request: &Message, code: ResponseCode) -> Self {
        let mut message = Message::response(request.id, request.op_code);
        message.metadata = metadata(&request.metadata, code);
        message.queries.clone_from(&request.queries);
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_DATAGRAM);
            edns.set_rcode_high(code.high());
            // RFC 3225: copied as it is.
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        Self { message, edns }
    }

    /// Adds `records` with our authority: who knows these names if not we.
    pub(crate) fn answer(&mut self, records: Vec<Record>) {
        self.message.metadata.authoritative = true;
        self.message.answers = records;
    }

    /// The reply in at most `limit` bytes: what does not fit is left out, and TC says so.
    pub(crate) fn encode(self, limit: u16) -> Vec<u8> {
        let reserved = self.edns.as_ref().map_or(0, |_| OPT_BYTES);
        let mut bytes = Vec::with_capacity(usize::from(limit.min(512)));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(limit - reserved);
        self.message.emit(&mut encoder).expect(
            "a question that was read can be written, and the smallest limit has room for it",
        );
        // Of the record that did not fit.
        encoder.trim();
        if let Some(edns) = self.edns {
            let opt = Record::from(&edns).to_bytes();
            bytes.extend(opt.expect("an OPT record without options can be written"));
            bytes[ADDITIONALS_AT..HEADER_BYTES].copy_from_slice(&1_u16.to_be_bytes());
        }
        bytes
    }
}

/// A reply to what has no question that could be read.
pub(crate) fn header_only(request: &Header, code: ResponseCode) -> Vec<u8> {
    let header = Header {
        metadata: metadata(&request.metadata, code),
        counts: HeaderCounts::default(),
    };
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    header
        .emit(&mut BinEncoder::new(&mut bytes))
        .expect("a header can be written");
    bytes
}

/// The header and the question of a reply that is longer than its reader wants, marked as cut off.
/// `end` is where the question ends.
pub(crate) fn cut_off(reply: &[u8], end: usize) -> Option<Vec<u8>> {
    let mut bytes = reply.get(..end)?.to_vec();
    *bytes.get_mut(FLAGS_AT)? |= TRUNCATED;
    // None of the records behind the question is left.
    bytes.get_mut(6..HEADER_BYTES)?.fill(0);
    Some(bytes)
}

fn metadata(request: &Metadata, code: ResponseCode) -> Metadata {
    let mut metadata = Metadata::response_from_request(request);
    metadata.response_code = code;
    // Whatever we do not know we ask others.
    metadata.recursion_available = true;
    metadata
}
