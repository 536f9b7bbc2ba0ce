use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn send(checks: &mut Checks, group: &Name, half: Position, conn: ConnId, now: Time) {
    checks.sent(half, conn, now, 1_000);
    checks.postpone(group, half, now, now + 30 * SECOND);
}

fn conns(numbers: &[u64]) -> BTreeSet<ConnId> {
    numbers.iter().copied().map(ConnId).collect()
}

fn half(checks: u8, immunity: u32) -> Half {
    Half { number: 0, producer_group: "p".into(), since: 100_000, immunity, checks, parked: false }
}

#[test]
fn waits_double_up_to_the_longest() {
    let config = CheckBack::default();
    let waits = |half: Half| config.wait(&half, half.checks).as_secs();
    assert_eq!(waits(half(0, 0)), 6);
    assert_eq!(waits(half(0, 90_000)), 90);
    let later: Vec<u64> = (1..=15).map(|checks| waits(half(checks, 90_000))).collect();
    assert_eq!(later[..7], [30, 60, 120, 240, 480, 960, 960]);
    assert_eq!(later[14], 960);
    assert_eq!(waits(half(255, 0)), 960);
}

#[test]
fn a_clock_that_was_set_neither_hurries_nor_stops_a_check() {
    let config = CheckBack::default();
    let remaining = |wall: i64| config.remaining(&half(0, 0), wall);
    assert_eq!(remaining(100_000), 6 * SECOND);
    assert_eq!(remaining(104_000), 2 * SECOND);
    assert_eq!(remaining(i64::MAX), Duration::ZERO);
    assert_eq!(remaining(0), 6 * SECOND, "set back: not later than for a new one");
}

#[test]
fn groups_take_turns_however_many_halves_they_have() {
    let mut checks = Checks::default();
    let (many, few): (Name, Name) = ("many".into(), "few".into());
    for n in 0..100 {
        checks.schedule(&many, Position(n), at(1));
    }
    checks.schedule(&few, Position(1_000), at(5));
    checks.schedule(&few, Position(1_001), at(5));
    let mut turns = Vec::new();
    for _ in 0..6 {
        let (group, half) = checks.next(at(10), 1_000).expect("due");
        send(&mut checks, &group, half, ConnId(1), at(10));
        // New ones keep coming meanwhile.
        checks.schedule(&many, Position(2_000 + turns.len() as u64), at(10));
        turns.push(group);
    }
    assert_eq!(turns.iter().filter(|group| **group == few).count(), 2, "{turns:?}");
}

#[test]
fn a_slice_has_its_share_and_no_more() {
    let mut checks = Checks::default();
    let group: Name = "p".into();
    for n in 0..100 {
        checks.schedule(&group, Position(n), at(1));
    }
    let mut sent = 0;
    while let Some((group, half)) = checks.next(at(2), 50) {
        send(&mut checks, &group, half, ConnId(1), at(2));
        sent += 1;
    }
    assert_eq!(sent, 5);
    assert_eq!(checks.deadline(), Some(at(2) + SLICE), "the rest has to wait");
}

#[test]
fn connections_rotate_and_a_lost_check_avoids_its_own() {
    let mut checks = Checks::default();
    let group: Name = "p".into();
    let all = conns(&[1, 2, 3]);
    for n in 0..4 {
        checks.schedule(&group, Position(n), at(1));
    }
    let picked = |checks: &mut Checks, avoid| checks.pick(&group, &all, avoid).map(|c| c.0);
    let turns: Vec<_> = (0..4).map(|_| picked(&mut checks, None)).collect();
    assert_eq!(turns, [Some(1), Some(2), Some(3), Some(1)]);
    assert_eq!(picked(&mut checks, Some(ConnId(2))), Some(3));

    // Nothing was heard over 1 since: its check is lost, and it is asked last.
    send(&mut checks, &group, Position(0), ConnId(1), at(2));
    assert_eq!(checks.last(Position(0)), Last::Lost(ConnId(1)));
    let turns: Vec<_> = (0..4).map(|_| picked(&mut checks, None)).collect();
    assert!(!turns.contains(&Some(1)), "{turns:?}");
    assert_eq!(checks.pick(&group, &conns(&[1]), None), Some(ConnId(1)), "better than none");
    checks.heard(ConnId(1), at(3));
    let turns: Vec<_> = (0..3).map(|_| picked(&mut checks, None)).collect();
    assert!(turns.contains(&Some(1)), "{turns:?}");
}

#[test]
fn only_a_sign_of_life_after_the_check_counts_it() {
    let mut checks = Checks::default();
    let group: Name = "p".into();
    for (n, heard) in [(0, None), (1, Some(at(2))), (2, Some(at(4)))] {
        let (half, conn) = (Position(n), ConnId(n));
        checks.schedule(&group, half, at(1));
        send(&mut checks, &group, half, conn, at(2));
        if let Some(heard) = heard {
            checks.heard(conn, heard);
        }
    }
    assert_eq!(checks.last(Position(0)), Last::Lost(ConnId(0)));
    assert_eq!(checks.last(Position(1)), Last::Lost(ConnId(1)), "it was on its way before");
    assert_eq!(checks.last(Position(2)), Last::Received(at(2)));
    assert_eq!((checks.uncounted(Position(1)), checks.uncounted(Position(2))), (0, 1));

    // A receipt over another connection than it took is none.
    send(&mut checks, &group, Position(0), ConnId(7), at(40));
    assert_eq!(checks.receive(Position(0), Some(ConnId(8))), None);
    assert_eq!(checks.receive(Position(0), Some(ConnId(7))), Some(at(40)));
    assert_eq!(checks.receive(Position(0), Some(ConnId(7))), None, "once");

    // A refusal is no receipt, however lively its sender is.
    send(&mut checks, &group, Position(1), ConnId(7), at(50));
    checks.refuse(Position(1), ConnId(7));
    checks.heard(ConnId(7), at(60));
    assert_eq!(checks.last(Position(1)), Last::Lost(ConnId(7)));
}

#[test]
fn what_is_forgotten_leaves_nothing_behind() {
    let mut checks = Checks::default();
    let group: Name = "p".into();
    for n in 0..10 {
        checks.schedule(&group, Position(n), at(0));
    }
    while let Some((group, half)) = checks.next(at(1), 100) {
        send(&mut checks, &group, half, ConnId(1), at(1));
    }
    checks.sleep(&group);
    checks.wake("p");
    (0..10).for_each(|n| checks.forget(&group, Position(n)));
    checks.closed(ConnId(1));
    assert!(checks.lines.is_empty() && checks.turns.is_empty() && checks.due.is_empty());
    assert!(checks.sent.is_empty() && checks.links.is_empty());
    assert_eq!(checks.next(at(100), 1_000), None);
}

#[test]
fn large_messages_take_a_larger_share_and_room() {
    let mut checks = Checks::default();
    let group: Name = "p".into();
    for n in 0..10 {
        checks.schedule(&group, Position(n), at(1));
    }
    let (mut now, mut sent) = (at(2), 0);
    while let Some(conn) = checks.pick(&group, &conns(&[1]), None) {
        while let Some((group, half)) = checks.next(now, 1_000) {
            checks.sent(half, conn, now, SLICE_BYTES);
            checks.postpone(&group, half, now, now + 30 * SECOND);
            sent += 1;
        }
        now = now + SLICE;
        assert!(sent < 10, "a peer that gives no sign of life gets more and more");
    }
    assert_eq!(sent, UNHEARD_BYTES / SLICE_BYTES, "one in each slice, until it is full");
    checks.heard(ConnId(1), now);
    assert_eq!(checks.pick(&group, &conns(&[1]), None), Some(ConnId(1)));
}
