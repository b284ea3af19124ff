use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;

use super::{Resolver, answers, failure, name_servers};
use crate::directory::{Directory, Member};

fn resolver(members: usize) -> Resolver {
    let mut directory = Directory::default();
    directory.add_network("n", "net", true, true);
    for number in 0..members {
        let address = IpAddr::from([10, 0, 0, u8::try_from(number).expect("few")]);
        let names = vec![format!("c{number}"), "all".to_owned()];
        let member = Member { names, addresses: vec![address], ..Member::default() };
        directory.add(&format!("id{number}"), "n", member);
    }
    Resolver {
        container: "id0".to_owned(),
        directory: Arc::new(RwLock::new(directory)),
        upstream: Vec::new(),
    }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 7;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("a message")
}

fn ask(resolver: &Resolver, question: &[u8], stream: bool) -> Option<Message> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let answer = runtime.block_on(resolver.answer(question, stream))?;
    Some(Message::from_vec(&answer).expect("a message"))
}

#[test]
fn a_known_name_has_its_address() {
    let answer = ask(&resolver(2), &question("C1.", RecordType::A), false).expect("an answer");
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (7, ResponseCode::NoError));
    assert_eq!(answer.answers.len(), 1);
    assert!(answer.answers[0].to_string().ends_with("10.0.0.1"));
}

#[test]
fn a_known_name_without_ipv6_has_no_data() {
    let answer = ask(&resolver(2), &question("c1.net.", RecordType::AAAA), false).expect("an answer");
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.is_empty());
}

#[test]
fn an_address_has_its_name() {
    let answer = ask(&resolver(2), &question("1.0.0.10.in-addr.arpa.", RecordType::PTR), false);
    assert!(answer.expect("an answer").answers[0].to_string().ends_with("c1.net."));
}

#[test]
fn many_addresses_are_cut_short_by_udp_but_not_by_tcp() {
    let resolver = resolver(100);
    let short = ask(&resolver, &question("all.", RecordType::A), false).expect("an answer");
    assert!(short.metadata.truncation && short.answers.is_empty());
    let whole = ask(&resolver, &question("all.", RecordType::A), true).expect("an answer");
    assert_eq!(whole.answers.len(), 100);
}

#[test]
fn what_no_server_may_answer_has_failed() {
    let answer = ask(&resolver(1), &question("example.org.", RecordType::A), false).expect("an answer");
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(answer.queries.len(), 1);
}

#[test]
fn an_answer_is_not_answered() {
    let answer = Message::response(7, OpCode::Query).to_vec().expect("a message");
    assert!(ask(&resolver(1), &answer, false).is_none());
}

#[test]
fn an_answer_must_carry_the_questions_number() {
    let asked = question("a.", RecordType::A);
    let mut other = Message::response(8, OpCode::Query).to_vec().expect("a message");
    assert!(!answers(&other, &asked));
    other[1] = 7;
    assert!(answers(&other, &asked));
    assert!(!answers(&other[..11], &asked));
    assert!(!answers(&asked, &asked));
}

#[test]
fn servers_are_read_from_resolv_conf() {
    let text = "# nameserver 9.9.9.9\nnameserver 127.0.0.53\nsearch a\nnameserver  fd00::1 \nnameserver fe80::1%eth0\n";
    let expected: Vec<IpAddr> = vec!["127.0.0.53".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(name_servers(text), expected);
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let answer = ask(&resolver(1), &bytes, false);
        prop_assert!(answer.is_none_or(|answer| answer.answers.is_empty()));
        let failed = failure(&bytes, ResponseCode::ServFail);
        prop_assert!(failed.is_none() || bytes.len() >= 12);
    }
}
