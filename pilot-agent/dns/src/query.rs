//! What becomes of a message: an answer from the table, a question for others, or nothing.

use hickory_proto::{
    op::{Header, Message, MessageType, OpCode, Query as Question, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{CNAME, PTR},
    },
    serialize::binary::{BinDecodable, BinDecoder},
};

use crate::{
    reply::{self, Reply},
    table::{Found, Table},
};

/// Short, so that a client soon follows a change of addresses. Istio's agent has the same.
const TTL_SECONDS: u32 = 30;
/// What a query may carry besides its question: a SOA, a signature, an OPT. More is malformed.
const MAX_ANSWERS: u16 = 1;
const MAX_AUTHORITIES: u16 = 1;
const MAX_ADDITIONALS: u16 = 2;

/// How the query came, and how its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

pub(crate) enum Verdict {
    /// Nothing that a reply could be sent to.
    Drop,
    Reply(Vec<u8>),
    Forward(Query),
}

/// A question that the table has no answer to.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) message: Message,
    /// As it came.
    pub(crate) bytes: Vec<u8>,
    pub(crate) transport: Transport,
}

impl Query {
    /// How large the answer may be: 512 bytes or what the client says (RFC 6891) over UDP.
    pub(crate) fn limit(&self) -> u16 {
        limit(&self.message, self.transport)
    }

    /// The answer when nobody answers.
    pub(crate) fn failure(&self) -> Vec<u8> {
        Reply::new(&self.message, ResponseCode::ServFail).encode(self.limit())
    }
}

/// Answers `bytes` from `table`.
pub(crate) fn judge(
    bytes: &[u8],
    transport: Transport,
    table: Option<&Table>,
    forward_before_table: bool,
) -> Verdict {
    let message = match read(bytes) {
        Ok(message) => message,
        Err(reply) => return reply.map_or(Verdict::Drop, Verdict::Reply),
    };
    let limit = limit(&message, transport);
    if message
        .edns
        .as_ref()
        .is_some_and(|edns| edns.version() != 0)
    {
        return Verdict::Reply(Reply::new(&message, ResponseCode::BADVERS).encode(limit));
    }
    let Some(question) = message.queries.first() else {
        return Verdict::Drop;
    };
    let kind = question.query_type();
    // A transfer is many messages, of a zone that is not ours.
    if matches!(kind, RecordType::AXFR | RecordType::IXFR) {
        return Verdict::Reply(Reply::new(&message, ResponseCode::Refused).encode(limit));
    }
    if table.is_none() && !forward_before_table {
        return Verdict::Reply(Reply::new(&message, ResponseCode::ServFail).encode(limit));
    }
    if question.query_class() == DNSClass::IN
        && let Some(reply) = table.and_then(|table| known(table, &message, question))
    {
        return Verdict::Reply(reply.encode(limit));
    }
    Verdict::Forward(Query {
        message,
        bytes: bytes.to_vec(),
        transport,
    })
}

/// The answer, if the table has one.
fn known(table: &Table, message: &Message, question: &Question) -> Option<Reply> {
    let (name, kind) = (question.name(), question.query_type());
    let records = match kind {
        RecordType::A | RecordType::AAAA => match table.lookup(name) {
            Some(found) => records(name, kind, found),
            None if table.is_nobodys(name) => {
                return Some(Reply::new(message, ResponseCode::NXDomain));
            }
            None => return None,
        },
        // Istio's agent knows no names of addresses: those that istiod made up had none.
        RecordType::PTR => pointers(name, table.names_of(name))?,
        _ => return None,
    };
    let mut reply = Reply::new(message, ResponseCode::NoError);
    reply.answer(records);
    Some(reply)
}

fn pointers(question: &Name, names: Vec<Name>) -> Option<Vec<Record>> {
    let record = |name| Record::from_rdata(question.clone(), TTL_SECONDS, RData::PTR(PTR(name)));
    let records: Vec<_> = names.into_iter().map(record).collect();
    (!records.is_empty()).then_some(records)
}

fn limit(message: &Message, transport: Transport) -> u16 {
    match transport {
        Transport::Udp => message.max_payload(),
        Transport::Tcp => u16::MAX,
    }
}

/// A well-formed query, or the reply to anything else, if there is to be one.
fn read(bytes: &[u8]) -> Result<Message, Option<Vec<u8>>> {
    let Ok(header) = Header::read(&mut BinDecoder::new(bytes)) else {
        return Err(None);
    };
    // To answer an answer could go on for ever.
    if header.message_type == MessageType::Response {
        return Err(None);
    }
    let refused = |code| Err(Some(reply::header_only(&header, code)));
    if header.op_code != OpCode::Query {
        return refused(ResponseCode::NotImp);
    }
    // The counts are looked at first, so that nothing is reserved for what cannot be there.
    let counts = &header.counts;
    if counts.queries != 1
        || counts.answers > MAX_ANSWERS
        || counts.authorities > MAX_AUTHORITIES
        || counts.additionals > MAX_ADDITIONALS
    {
        return refused(ResponseCode::FormErr);
    }
    Message::from_vec(bytes).or_else(|_| refused(ResponseCode::FormErr))
}

/// The alias, if any, and the addresses in random order. None of the family: no records at all, and
/// that is no error: the name exists.
fn records(question: &Name, kind: RecordType, found: Found<'_>) -> Vec<Record> {
    let mut addresses: Vec<RData> = match kind {
        RecordType::A => found
            .addresses
            .v4
            .iter()
            .map(|ip| RData::A((*ip).into()))
            .collect(),
        _ => found
            .addresses
            .v6
            .iter()
            .map(|ip| RData::AAAA((*ip).into()))
            .collect(),
    };
    if addresses.is_empty() {
        return Vec::new();
    }
    fastrand::shuffle(&mut addresses);
    let mut records = Vec::with_capacity(addresses.len() + 1);
    let owner = found.alias.unwrap_or_else(|| question.clone());
    if owner != *question {
        let alias = RData::CNAME(CNAME(owner.clone()));
        records.push(Record::from_rdata(question.clone(), TTL_SECONDS, alias));
    }
    let record = |address| Record::from_rdata(owner.clone(), TTL_SECONDS, address);
    records.extend(addresses.into_iter().map(record));
    records
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
