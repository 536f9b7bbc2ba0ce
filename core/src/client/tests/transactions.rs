use super::*;
use crate::{
    message::{Properties, property, sys_flag},
    wire::header::{CheckTransactionHeader, EndTransactionHeader, Resolution},
};

fn rig() -> Rig {
    let mut config = ClientConfig::new(vec![name_server()]);
    config.client_id = Some(ME.to_owned());
    config.producer_group = "shop".to_owned();
    let mut rig = Rig::with(config);
    rig.tables.add_topic("orders", &[(1, 1)]);
    rig
}

fn open(rig: &mut Rig) {
    rig.command(Command::OpenTransactions { topics: vec!["orders".to_owned()] });
    rig.run_for(Duration::from_millis(1));
}

fn begin(rig: &mut Rig) -> Result<Half, SendError> {
    let message = Message::new("orders", "paid");
    let ticket = rig.command(Command::SendHalf { message, options: SendOptions::default() });
    rig.run_for(Duration::from_secs(5));
    match rig.outcome(ticket) {
        Some((_, Done::HalfSent(result))) => result.clone(),
        other => panic!("{other:?}"),
    }
}

fn end(rig: &mut Rig, half: &Half, resolution: Resolution) -> Ticket {
    rig.command(Command::Ask(Ask::EndTransaction { half: half.clone(), resolution }))
}

/// Asks this client as our broker does: it wants to know that the check arrived.
fn check(rig: &mut Rig, position: i64, group: &str) {
    let mut record = progress::tests::record(3, "a");
    let mut properties = record.properties.to_vec();
    Properties::put(&mut properties, property::PGROUP, group);
    Properties::put(&mut properties, property::UNIQ_KEY, "the-id");
    record.properties = properties.into();
    let mut body = Vec::new();
    record.encode(&mut body);
    let header = CheckTransactionHeader {
        topic: Some("orders"),
        half_offset: 3,
        position,
        message_id: Some("the-id"),
        transaction_id: Some("the-id"),
        offset_message_id: None,
        broker_name: Some("broker-1"),
        acknowledge: Some(true),
    };
    let code = request::CHECK_TRANSACTION_STATE;
    let frame = Frame::request(code, 77, header.fields(), body.into());
    rig.request(broker(1), frame.one_way());
}

fn check_answers(rig: &Rig) -> Vec<i32> {
    rig.answers.iter().map(|(_, frame)| frame.code).collect()
}

#[test]
fn a_half_is_sent_as_one_and_its_decision_names_it() {
    let mut rig = rig();
    let half = begin(&mut rig).unwrap();
    let sent = rig.requests_of(request::SEND_MESSAGE_V2)[0].clone();
    let header = SendHeader::parse(&sent.fields).unwrap();
    assert_eq!(header.sys_flag, sys_flag::TRANSACTION_PREPARED);
    let properties = Properties(header.properties.unwrap().as_bytes());
    assert_eq!(properties.get(property::TRAN_MSG), Some("true"));
    assert_eq!(properties.get(property::PGROUP), Some("shop"));

    let ticket = end(&mut rig, &half, Resolution::Commit);
    assert_eq!(rig.outcome(ticket).unwrap().1, &Done::Answered(Ok(Answer::Done)));
    let told = rig.requests_of(request::END_TRANSACTION)[0].clone();
    let told = EndTransactionHeader::parse(&told.fields).unwrap();
    assert_eq!((told.position, told.half_offset), (half.position, half.half_offset));
    assert_eq!((told.producer_group, told.resolution), ("shop", Resolution::Commit));
    assert_eq!((told.from_check, told.message_id), (Some(false), &*half.message_id));
}

/// Two halves of one transaction would both be committed by check-back.
#[test]
fn a_half_is_not_sent_again_after_a_lost_answer() {
    let mut rig = rig();
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::SEND_MESSAGE_V2 => Fate::LoseReply,
        _ => Fate::Answer,
    });
    assert!(matches!(begin(&mut rig), Err(SendError::Unknown { tries: 1, .. })));
    assert_eq!(rig.requests_of(request::SEND_MESSAGE_V2).len(), 1);
}

#[test]
fn a_half_that_was_refused_is_tried_again() {
    let mut rig = rig();
    let mut refusals = 2;
    rig.meddle = Box::new(move |_, frame| match frame.code {
        request::SEND_MESSAGE_V2 if refusals > 0 => {
            refusals -= 1;
            Fate::Refuse(code::SYSTEM_BUSY)
        }
        _ => Fate::Answer,
    });
    assert!(begin(&mut rig).is_ok());
}

/// T1: a decision is repeated until its broker answers.
#[test]
fn a_decision_outlives_a_lost_link_and_a_restart() {
    let mut rig = rig();
    let half = begin(&mut rig).unwrap();
    let back_at = rig.now + Duration::from_secs(4);
    let now = std::rc::Rc::new(std::cell::Cell::new(rig.now));
    let clock = now.clone();
    rig.meddle = Box::new(move |_, frame| match frame.code {
        request::END_TRANSACTION if clock.get() < back_at => Fate::LinkDown,
        _ => Fate::Answer,
    });
    let ticket = end(&mut rig, &half, Resolution::Rollback);
    while rig.outcome(ticket).is_none() {
        rig.run_for(Duration::from_millis(100));
        now.set(rig.now);
    }
    assert_eq!(rig.outcome(ticket).unwrap().1, &Done::Answered(Ok(Answer::Done)));
    assert!(rig.requests_of(request::END_TRANSACTION).len() > 2);
}

#[test]
fn a_contrary_decision_is_told_as_refused_and_not_repeated() {
    let mut rig = rig();
    let half = begin(&mut rig).unwrap();
    end(&mut rig, &half, Resolution::Commit);
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::END_TRANSACTION => Fate::Refuse(code::ILLEGAL_OPERATION),
        _ => Fate::Answer,
    });
    let ticket = end(&mut rig, &half, Resolution::Rollback);
    rig.run_for(Duration::from_secs(20));
    let refused = rig.outcome(ticket).unwrap().1;
    assert!(matches!(refused, Done::Answered(Err(ClientError::Refused(_)))), "{refused:?}");
    assert_eq!(rig.requests_of(request::END_TRANSACTION).len(), 2);
}

/// A half of another member, that this client knows nothing else of.
#[test]
fn a_check_is_handed_out_and_answered_where_it_came_from() {
    let mut rig = rig();
    open(&mut rig);
    check(&mut rig, 4_711, "shop");
    assert_eq!(check_answers(&rig), [code::SUCCESS]);
    let asked = rig.checks.pop().unwrap();
    assert_eq!((asked.half.position, asked.half.message_id.as_str()), (4_711, "the-id"));
    assert_eq!(&asked.message.body()[..], b"body-3");

    rig.run_for(Duration::from_secs(40));
    end(&mut rig, &asked.half, Resolution::Commit);
    let (_, to, frame) =
        rig.requests.iter().rfind(|r| r.2.code == request::END_TRANSACTION).unwrap();
    let told = EndTransactionHeader::parse(&frame.fields).unwrap();
    assert_eq!((*to, told.position, told.from_check), (broker(1), 4_711, Some(true)));
    assert_eq!((told.half_offset, told.producer_group), (3, "shop"));
}

/// T5: who cannot answer says so, and the broker does not count the check.
#[test]
fn a_check_that_nobody_takes_is_refused() {
    let mut rig = rig();
    begin(&mut rig).unwrap();
    check(&mut rig, 1, "shop");
    assert_eq!(check_answers(&rig), [code::REQUEST_CODE_NOT_SUPPORTED]);
    open(&mut rig);
    check(&mut rig, 1, "somebody-else");
    for position in 0..=MAX_CHECKS as i64 {
        check(&mut rig, position, "shop");
    }
    let answers = check_answers(&rig);
    assert_eq!(answers[1], code::INVALID_PARAMETER);
    assert_eq!(answers.iter().filter(|code| **code == code::SUCCESS).count(), MAX_CHECKS);
    assert_eq!(answers.last(), Some(&code::SYSTEM_BUSY));
}

#[test]
fn a_check_repeated_while_the_application_thinks_is_handed_out_once() {
    let mut rig = rig();
    open(&mut rig);
    check(&mut rig, 9, "shop");
    check(&mut rig, 9, "shop");
    assert_eq!((rig.checks.len(), check_answers(&rig).len()), (1, 2));
    rig.run_for(Duration::from_secs(61));
    check(&mut rig, 9, "shop");
    assert_eq!(rig.checks.len(), 2, "the first one was forgotten");
    let half = rig.checks[1].half.clone();
    end(&mut rig, &half, Resolution::Unknown);
    check(&mut rig, 9, "shop");
    assert_eq!(rig.checks.len(), 3, "an answered one may come again at once");
}

/// A producer that began nothing, after a restart say, still has to be known
/// to every broker that may hold a half of its group; and again after a loss.
#[test]
fn every_broker_of_the_topics_knows_the_producer_group() {
    let mut rig = rig();
    rig.tables.add_topic("orders", &[(1, 1), (2, 1), (3, 1)]);
    open(&mut rig);
    let met = |rig: &Rig, n| {
        let heartbeats = rig
            .requests
            .iter()
            .filter(|(_, addr, frame)| *addr == broker(n) && frame.code == request::HEART_BEAT);
        heartbeats.count()
    };
    assert_eq!((met(&rig, 1), met(&rig, 2), met(&rig, 3)), (1, 1, 1));
    let heartbeat = rig.requests_of(request::HEART_BEAT)[0];
    assert!(String::from_utf8_lossy(&heartbeat.body).contains("\"shop\""));

    rig.link_down(broker(2));
    rig.run_for(Duration::from_secs(2));
    assert_eq!((met(&rig, 1), met(&rig, 2)), (1, 2));
}

/// T13: a broker that just started hears who its producers are as soon as it can,
/// not with the next heartbeat.
#[test]
fn a_broker_that_was_not_ready_is_told_again_who_we_are() {
    let mut rig = rig();
    open(&mut rig);
    rig.run_for(Duration::from_secs(1));
    rig.link_down(broker(1));
    rig.meddle = Box::new(|_, frame| match frame.code {
        request::HEART_BEAT => Fate::Refuse(code::SYSTEM_BUSY),
        _ => Fate::Answer,
    });
    rig.run_for(Duration::from_secs(5));
    rig.meddle = Box::new(|_, _| Fate::Answer);
    let refused = rig.requests_of(request::HEART_BEAT).len();
    rig.run_for(Duration::from_secs(2));
    assert_eq!(rig.requests_of(request::HEART_BEAT).len(), refused + 1);
    rig.run_for(Duration::from_secs(5));
    assert_eq!(rig.requests_of(request::HEART_BEAT).len(), refused + 1, "it knows us now");
}
