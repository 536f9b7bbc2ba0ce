//! The protocol between replicas: what is sent arrives, what is not theirs
//! changes nothing.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::{
    codec::{Arrived, MAX_BODY, Session},
    handshake::{Dialler, Heard, Listener, Membership, nonce},
    *,
};
use crate::rng::Rng;

fn membership(secret: &str) -> Membership {
    Membership { group: "set-a".into(), secret: secret.into(), segment_bytes: 1 << 30 }
}

fn pair(
    dials: Membership,
    listens: Membership,
    dialled: NodeId,
) -> Result<(NodeId, Session, Session), PeerError> {
    let mut rng = Rng::new(7);
    let (dialler, hello) = Dialler::new(dials, NodeId(1), dialled, nonce(|| rng.next()));
    let mut listener = Listener::new(listens, NodeId(2), nonce(|| rng.next()));
    let mut to_listener = BytesMut::from(&hello[..]);
    let Heard::Hello(challenge) = listener.hear(&mut to_listener)? else { panic!("no answer") };
    let mut to_dialler = BytesMut::from(&challenge[..]);
    let (proof, sends) = dialler.challenged(&mut to_dialler)?.expect("all of it is there");
    to_listener.extend_from_slice(&proof);
    let Heard::Member(peer, receives) = listener.hear(&mut to_listener)? else { panic!("refused") };
    Ok((peer, sends, receives))
}

fn sessions() -> (Session, Session) {
    let (peer, sends, receives) = pair(membership("s"), membership("s"), NodeId(2)).unwrap();
    assert_eq!(peer, NodeId(1));
    (sends, receives)
}

fn mark() -> impl Strategy<Value = Mark> {
    (0u64..9, 0u64..99).prop_map(|(term, index)| Mark { term: Term(term), index: LogIndex(index) })
}

fn body() -> impl Strategy<Value = Body> {
    let index = || any::<u64>().prop_map(LogIndex);
    let time = || any::<u64>().prop_map(Time);
    let echo = || {
        (any::<u64>(), any::<u64>(), any::<bool>(), any::<bool>()).prop_map(
            |(sent, life, is_trusted, wants_snapshot)| Echo {
                sent: Time(sent),
                life,
                is_trusted,
                wants_snapshot,
            },
        )
    };
    let base = || {
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(position, index, term)| Base {
            position: Position(position),
            index: LogIndex(index),
            term: Term(term),
        })
    };
    let bytes = prop::collection::vec(any::<u8>(), 0..3000).prop_map(Bytes::from);
    let parts = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1500), 0..4);
    let kind = prop::sample::select(vec![Kind::Messages, Kind::Command, Kind::Mark]);
    let entries = prop::collection::vec((0u64..3, any::<bool>(), kind, parts), 0..5);
    let entries = (mark(), entries).prop_map(|(previous, entries)| {
        let mut last = previous;
        let entries = entries.into_iter().map(|(later, needs_sync, kind, parts)| {
            last = Mark { term: Term(last.term.0 + later), index: LogIndex(last.index.0 + 1) };
            let parts = parts.into_iter().map(Bytes::from).collect();
            let start = Position(last.index.0 * 1000);
            Replicated { term: last.term, index: last.index, start, kind, needs_sync, parts }
        });
        (previous, entries.collect::<Vec<_>>())
    });
    let entries = entries.boxed();
    prop_oneof![
        (entries.clone(), any::<u64>())
            .prop_map(|((_, entries), from)| Body::LogPiece { from: Position(from), entries }),
        (entries, index(), time()).prop_map(|((previous, entries), commit, sent)| {
            Body::Append { previous, commit, sent, entries }
        }),
        (index(), index(), echo()).prop_map(|(index, commit, echo)| Body::Appended {
            index,
            commit,
            echo
        }),
        (index(), mark(), index(), echo()).prop_map(|(index, hint, commit, echo)| {
            Body::Rejected { index, hint, commit, echo }
        }),
        (index(), time()).prop_map(|(commit, sent)| Body::Heartbeat { commit, sent }),
        (index(), echo()).prop_map(|(commit, echo)| Body::Alive { commit, echo }),
        (any::<bool>(), any::<bool>(), mark(), mark()).prop_map(|(pre, transfer, last, commit)| {
            Body::Canvass { pre, transfer, last, commit }
        }),
        (any::<bool>(), any::<bool>(), mark()).prop_map(|(pre, granted, commit)| Body::Voted {
            pre,
            granted,
            commit
        }),
        Just(Body::TakeOver),
        any::<u64>().prop_map(|life| Body::Trust { life }),
        (base(), base(), any::<u64>(), time()).prop_map(|(start, base, state_bytes, sent)| {
            Body::Offer { offer: Offer { start, base, state_bytes }, sent }
        }),
        (index(), any::<bool>(), any::<u64>()).prop_map(|(base, state, at)| {
            let piece = if state { Piece::State(at) } else { Piece::Log(Position(at)) };
            Body::Fetch { base, piece }
        }),
        (index(), any::<u64>(), bytes)
            .prop_map(|(base, offset, bytes)| { Body::StatePiece { base, offset, bytes } }),
    ]
}

fn message() -> impl Strategy<Value = Arrived> {
    (any::<u64>(), body(), any::<bool>()).prop_map(|(term, body, asks)| {
        let (from, to, term) = (NodeId(1), NodeId(2), Term(term));
        Arrived { message: Message { from, to, term, body }, asks }
    })
}

fn bytes_of(session: &mut Session, sent: &Arrived) -> Vec<u8> {
    let mut out = Vec::new();
    session.encode(&sent.message, sent.asks, &mut out);
    out.concat()
}

proptest! {
    #[test]
    fn messages_arrive_as_they_were_sent(
        messages in prop::collection::vec(message(), 1..6),
        step in 1usize..4000,
    ) {
        let (mut sends, mut receives) = sessions();
        let mut stream = Vec::new();
        for message in &messages {
            stream.extend(bytes_of(&mut sends, message));
        }
        let (mut buffer, mut arrived) = (BytesMut::new(), Vec::new());
        for piece in stream.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(message) = receives.decode(&mut buffer).unwrap() {
                arrived.push(message);
            }
        }
        prop_assert_eq!(arrived, messages);
    }

    #[test]
    fn a_damaged_repeated_or_missing_frame_ends_the_connection(
        messages in prop::collection::vec(message(), 2..4),
        fault in 0usize..3,
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let (mut sends, mut receives) = sessions();
        let mut frames: Vec<Vec<u8>> =
            messages.iter().map(|message| bytes_of(&mut sends, message)).collect();
        match fault {
            0 => {
                let frame = at.index(frames.len());
                let byte = at.index(frames[frame].len());
                frames[frame][byte] ^= 1 << bit;
            }
            1 => frames.insert(0, frames[0].clone()),
            _ => drop(frames.remove(0)),
        }
        let mut buffer = BytesMut::from(&frames.concat()[..]);
        let mut arrived = Vec::new();
        let ended = loop {
            match receives.decode(&mut buffer) {
                Ok(Some(message)) => arrived.push(message),
                // The length said to wait for more than will ever come.
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        prop_assert!(messages.starts_with(&arrived) && arrived.len() < messages.len());
        prop_assert!(ended.is_some() || !buffer.is_empty());
    }

    #[test]
    fn noise_is_refused_without_a_panic(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut listener = Listener::new(membership("s"), NodeId(2), [0; 32]);
        let mut buffer = BytesMut::from(&noise[..]);
        prop_assert!(!matches!(listener.hear(&mut buffer), Ok(Heard::Hello(_) | Heard::Member(..))));
        let _ = sessions().1.decode(&mut BytesMut::from(&noise[..]));
    }
}

#[test]
fn a_frame_is_never_larger_than_allowed() {
    let (_, mut receives) = sessions();
    let mut buffer = BytesMut::from(&[0xff; 8][..]);
    let refused = receives.decode(&mut buffer);
    let bytes = (u32::MAX >> 1) as usize;
    assert_eq!(refused, Err(PeerError::TooLarge { bytes, limit: MAX_BODY }));
}

#[test]
fn only_members_of_this_group_are_heard() {
    let ours = || membership("s");
    let other = Membership { group: "set-b".into(), ..ours() };
    let longer = Membership { segment_bytes: 4096, ..ours() };
    let refusals = [
        pair(membership("guess"), ours(), NodeId(2)),
        pair(ours(), membership("changed"), NodeId(2)),
        pair(other, ours(), NodeId(2)),
        pair(longer, ours(), NodeId(2)),
        pair(ours(), ours(), NodeId(3)),
    ];
    let refusals = refusals.map(|refused| refused.unwrap_err().to_string());
    insta::assert_snapshot!(refusals.join("\n"), @r"
    the other side does not know the secret
    the other side does not know the secret
    the other side has another group
    the other side has another segment length
    the other side has another idea of who this replica is
    ");
}

/// Somebody who overheard a whole handshake repeats the dialler's half (L6).
#[test]
fn a_recorded_handshake_opens_nothing() {
    let mut rng = Rng::new(1);
    let (dialler, hello) = Dialler::new(membership("s"), NodeId(1), NodeId(2), [1; 32]);
    let mut listener = || Listener::new(membership("s"), NodeId(2), nonce(|| rng.next()));
    let mut first = listener();
    let Ok(Heard::Hello(challenge)) = first.hear(&mut BytesMut::from(&hello[..])) else { panic!() };
    let (proof, _) = dialler.challenged(&mut BytesMut::from(&challenge[..])).unwrap().unwrap();
    let mut second = listener();
    let mut replayed = BytesMut::from(&[&hello[..], &proof].concat()[..]);
    assert!(matches!(second.hear(&mut replayed), Ok(Heard::Hello(_))));
    assert!(matches!(second.hear(&mut replayed), Err(PeerError::NotAMember)));
}
