//! What is said of a node that does not answer, and how often one is asked.

use std::{cell::Cell, net::TcpListener, time::Duration};

use stormglass::on_tokio::block_on;
use tokio::time::{Instant, advance, pause};

use crate::metrics::{Origin, about, http::Recent, question::Silence, standing::Standing};

fn origin() -> Origin {
    Origin { cluster: "c".into(), node_type: "broker", node_id: "broker-a".into() }
}

#[test]
fn a_broker_that_does_not_turn_is_waited_for_two_seconds() {
    let (asker, asked) = about(origin(), true);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silences = block_on(async {
        pause();
        let opening = asker.standing().await;
        asked.opened(listener.local_addr().unwrap());
        let began = Instant::now();
        let busy = asker.standing().await;
        assert_eq!(began.elapsed().as_secs(), 2);
        drop(asked);
        [opening, busy, asker.standing().await]
    });
    assert_eq!(silences.unwrap(), [Silence::Opens, Silence::TooBusy, Silence::Ended].map(Err));
}

#[test]
fn a_name_server_is_ready_once_it_listens() {
    let (asker, asked) = about(origin(), false);
    let standings = block_on(async {
        let before = asker.standing().await;
        asked.opened("127.0.0.1:9".parse().unwrap());
        [before, asker.standing().await]
    });
    assert_eq!(standings.unwrap(), [Err(Silence::Opens), Ok(Standing::Serves)]);
}

#[test]
fn who_asks_again_at_once_gets_the_same_answer() {
    let asked = Cell::new(0);
    let ask = async || asked.replace(asked.get() + 1);
    let answers = block_on(async {
        pause();
        let recent = Recent::new(Duration::from_secs(1));
        let first = recent.get(ask()).await;
        advance(Duration::from_millis(999)).await;
        let second = recent.get(ask()).await;
        advance(Duration::from_millis(1)).await;
        [first, second, recent.get(ask()).await]
    });
    assert_eq!(answers.unwrap(), [0, 0, 1]);
}
