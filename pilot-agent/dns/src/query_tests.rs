use std::{collections::BTreeMap, sync::Arc};

use hickory_proto::{op::Edns, rr::rdata};
use ithildin_proto::nds::{NameTable, name_table::NameInfo};
use proptest::prelude::*;

use super::*;
use crate::table::Place;

fn table() -> Table {
    let host = |name: &str, ips: Vec<String>| {
        let info = NameInfo {
            ips,
            registry: "External".to_owned(),
            ..NameInfo::default()
        };
        (name.to_owned(), info)
    };
    let many = (0..64).map(|n| format!("240.0.0.{n}")).collect();
    let hosts = [
        host("a.example", vec!["192.0.2.1".to_owned()]),
        host("six.example", vec!["2001:db8::1".to_owned()]),
        host("many.example", many),
        host("pool.example", vec!["240.0.0.3".to_owned()]),
        host("*.wild.example", vec!["192.0.2.2".to_owned()]),
    ];
    let source = NameTable {
        table: BTreeMap::from(hosts),
        name_info: None,
    };
    let place = Place {
        search: Some("ns.svc.cluster.local".to_owned()),
        ..Place::default()
    };
    Table::new(Arc::new(source), &place)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(message: &Message, transport: Transport) -> Verdict {
    judge(&message.to_vec().unwrap(), transport, Some(&table()), false)
}

fn answer(message: &Message) -> Message {
    let Verdict::Reply(bytes) = ask(message, Transport::Udp) else {
        panic!("no reply to {message}");
    };
    Message::from_vec(&bytes).unwrap()
}

fn code(bytes: &[u8]) -> Option<ResponseCode> {
    match judge(bytes, Transport::Udp, Some(&table()), false) {
        Verdict::Drop => None,
        Verdict::Reply(reply) => Some(
            Header::read(&mut BinDecoder::new(&reply))
                .unwrap()
                .response_code,
        ),
        Verdict::Forward(_) => panic!("{bytes:?} is forwarded"),
    }
}

#[test]
fn an_answer_is_authoritative_and_keeps_the_question() {
    let reply = answer(&query("A.eXample.", RecordType::A));
    assert_eq!((reply.id, reply.response_code), (77, ResponseCode::NoError));
    assert!(reply.authoritative && reply.recursion_desired && reply.recursion_available);
    assert!(!reply.truncation && reply.edns.is_none());
    let name = Name::from_ascii("A.eXample.").unwrap();
    assert!(reply.queries[0].name().eq_case(&name) && reply.answers[0].name.eq_case(&name));
    assert_eq!(reply.answers[0].data, RData::A(rdata::A::new(192, 0, 2, 1)));
    assert_eq!(reply.answers[0].ttl, 30);
    assert_eq!(
        (
            reply.answers.len(),
            reply.authorities.len(),
            reply.additionals.len()
        ),
        (1, 0, 0)
    );
}

#[test]
fn a_search_domain_is_an_alias() {
    for (asked, target) in [
        ("six.example.ns.svc.cluster.local.", "six.example."),
        ("x.wild.example.ns.svc.cluster.local.", "*.wild.example."),
    ] {
        let kind = if target.starts_with('s') {
            RecordType::AAAA
        } else {
            RecordType::A
        };
        let reply = answer(&query(asked, kind));
        assert_eq!(reply.answers.len(), 2, "{reply}");
        let name = Name::from_ascii(target).unwrap();
        assert_eq!(reply.answers[0].data, RData::CNAME(CNAME(name.clone())));
        assert_eq!(reply.answers[0].name.to_string(), asked);
        assert_eq!(reply.answers[1].name, name);
        assert_eq!(reply.answers[1].record_type(), kind);
    }
}

/// Istio's agent asks others, who do not know an address that istiod made up.
#[test]
fn an_address_has_the_names_of_its_hosts() {
    let many = ["many.example.", "pool.example."];
    for (asked, names) in [
        ("1.2.0.192.In-Addr.Arpa.", &["a.example."][..]),
        ("3.0.0.240.in-addr.arpa.", &many),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
            &["six.example."],
        ),
    ] {
        let reply = answer(&query(asked, RecordType::PTR));
        assert_eq!(reply.response_code, ResponseCode::NoError, "{asked}");
        assert!(reply.authoritative);
        let told: Vec<_> = reply.answers.iter().map(|it| it.data.to_string()).collect();
        assert_eq!(told, names, "{asked}");
        assert!(
            reply
                .answers
                .iter()
                .all(|it| it.ttl == 30 && it.name.to_string() == asked)
        );
    }
}

#[test]
fn a_known_name_without_such_addresses_exists() {
    for (name, kind) in [
        ("a.example.", RecordType::AAAA),
        ("six.example.", RecordType::A),
        ("a.example.ns.svc.cluster.local.", RecordType::AAAA),
    ] {
        let reply = answer(&query(name, kind));
        assert_eq!(reply.response_code, ResponseCode::NoError, "{name}");
        assert!(reply.authoritative && reply.answers.is_empty(), "{reply}");
    }
}

#[test]
fn whatever_else_is_asked_is_forwarded() {
    for (name, kind) in [
        ("b.example.", RecordType::A),
        ("wild.example.", RecordType::A),
        ("a.example.", RecordType::TXT),
        ("a.example.", RecordType::HTTPS),
        // Nobody's address, a network, a name that is of no address, and a wildcard's.
        ("9.2.0.192.in-addr.arpa.", RecordType::PTR),
        ("2.0.192.in-addr.arpa.", RecordType::PTR),
        ("x.2.0.192.in-addr.arpa.", RecordType::PTR),
        ("a.example.", RecordType::PTR),
        ("2.2.0.192.in-addr.arpa.", RecordType::PTR),
        ("1.2.0.192.in-addr.arpa.", RecordType::TXT),
    ] {
        let verdict = ask(&query(name, kind), Transport::Udp);
        assert!(matches!(verdict, Verdict::Forward(_)), "{name} {kind}");
    }
    let mut chaos = query("a.example.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert!(matches!(ask(&chaos, Transport::Udp), Verdict::Forward(_)));
}

#[test]
fn without_a_table_names_fail_or_are_forwarded() {
    let bytes = query("a.example.", RecordType::A).to_vec().unwrap();
    let Verdict::Reply(reply) = judge(&bytes, Transport::Udp, None, false) else {
        panic!("no reply");
    };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.response_code, ResponseCode::ServFail);
    assert!(!reply.authoritative);
    let forwarded = judge(&bytes, Transport::Udp, None, true);
    assert!(matches!(forwarded, Verdict::Forward(_)));
}

#[test]
fn an_answer_fits_what_the_client_takes() {
    let mut request = query("many.example.", RecordType::A);
    // Without EDNS, with less than the least, and with room; each with what fits.
    for (payload, expected) in [
        (None, 30),
        (Some(100), 29),
        (Some(800), 47),
        (Some(4096), 64),
    ] {
        request.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_dnssec_ok(true);
            edns
        });
        let Verdict::Reply(bytes) = ask(&request, Transport::Udp) else {
            panic!("no reply");
        };
        let limit = payload.unwrap_or(0).max(512);
        assert!(bytes.len() <= usize::from(limit), "{} bytes", bytes.len());
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.answers.len(), expected, "{payload:?}");
        assert_eq!(reply.truncation, expected < 64, "{payload:?}");
        assert_eq!(reply.edns.is_some(), payload.is_some());
        assert!(
            reply
                .edns
                .is_none_or(|edns| edns.flags().dnssec_ok && edns.version() == 0)
        );
    }
    request.edns = None;
    let Verdict::Reply(bytes) = ask(&request, Transport::Tcp) else {
        panic!("no reply");
    };
    let reply = Message::from_vec(&bytes).unwrap();
    assert_eq!((reply.answers.len(), reply.truncation), (64, false));
}

#[test]
fn addresses_come_in_any_order() {
    let first = || {
        answer(&query("many.example.", RecordType::A)).answers[0]
            .data
            .clone()
    };
    let reference = first();
    // By chance 64 times the same: one in 64^64.
    assert!((0..64).any(|_| first() != reference));
}

#[test]
fn malformed_queries_are_refused_or_dropped() {
    let bytes = query("a.example.", RecordType::A).to_vec().unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        bytes
    };
    for short in 0..12 {
        assert_eq!(code(&bytes[..short]), None, "{short} bytes");
    }
    // A response, whatever it says.
    assert_eq!(code(&with(2, 0x81)), None);
    // Opcodes STATUS and UPDATE.
    assert_eq!(code(&with(2, 0x11)), Some(ResponseCode::NotImp));
    assert_eq!(code(&with(2, 0x29)), Some(ResponseCode::NotImp));
    // No question, two, and more records than a query has.
    for (at, count) in [(5, 0), (5, 2), (4, 255), (7, 2), (9, 2), (11, 3)] {
        assert_eq!(
            code(&with(at, count)),
            Some(ResponseCode::FormErr),
            "{at} {count}"
        );
    }
    // Cut off, a label too long, a pointer to itself, records that are not there.
    assert_eq!(code(&bytes[..20]), Some(ResponseCode::FormErr));
    assert_eq!(code(&with(12, 0x41)), Some(ResponseCode::FormErr));
    let mut looped = with(12, 0xc0);
    looped[13] = 12;
    assert_eq!(code(&looped), Some(ResponseCode::FormErr));
    assert_eq!(code(&with(11, 1)), Some(ResponseCode::FormErr));
}

#[test]
fn later_versions_and_transfers_are_refused() {
    let mut later = query("a.example.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    later.edns = Some(edns);
    let reply = answer(&later);
    // BADVERS and BADSIG are one number.
    assert_eq!(u16::from(reply.response_code), 16);
    assert!(reply.answers.is_empty() && reply.edns.unwrap().version() == 0);
    let transfer = answer(&query("a.example.", RecordType::AXFR));
    assert_eq!(transfer.response_code, ResponseCode::Refused);
}

proptest! {
    /// Any bytes at all: no panic, and a reply is a well-formed response with the id of the query.
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), tcp: bool) {
        check(&bytes, tcp)?;
    }

    /// As above, of bytes that nearly are a query.
    #[test]
    fn spoilt_queries_are_survived(
        name in "[a-z]{1,20}(\\.[a-z]{1,20}){0,4}\\.",
        kind in any::<u16>(),
        edns in any::<Option<u16>>(),
        spoilt in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<proptest::sample::Index>(),
        tcp: bool,
    ) {
        let mut message = query(&name, kind.into());
        message.edns = edns.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        let mut bytes = message.to_vec().unwrap();
        for (at, byte) in spoilt {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if tcp {
            bytes.truncate(cut.index(bytes.len()) + 1);
        }
        check(&bytes, tcp)?;
    }
}

fn check(bytes: &[u8], tcp: bool) -> Result<(), TestCaseError> {
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    match judge(bytes, transport, Some(&table()), true) {
        Verdict::Drop => {}
        Verdict::Reply(reply) => {
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            let reply = Message::from_vec(&reply);
            prop_assert!(reply.is_ok(), "{:?}", reply);
            prop_assert_eq!(reply.unwrap().message_type, MessageType::Response);
        }
        Verdict::Forward(query) => {
            prop_assert_eq!(&query.bytes, bytes);
            let failure = Message::from_vec(&query.failure()).unwrap();
            prop_assert_eq!(failure.response_code, ResponseCode::ServFail);
        }
    }
    Ok(())
}
