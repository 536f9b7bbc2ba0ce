//! Taking leave: consumers leave their groups, then brokers are told.

use super::ClientCore;
use crate::{
    client::{
        Done, Output, Ticket,
        context::{Context, Purpose},
    },
    wire::{header::UnregisterHeader, request},
};

pub(super) struct Closing {
    pub(super) tickets: Vec<Ticket>,
    /// The brokers were told; none before all consumers have left.
    pub(super) farewells: Option<usize>,
    pub(super) done: bool,
}

impl ClientCore {
    pub(super) fn close(&mut self, ticket: Ticket) {
        self.producer.close(&mut self.cx);
        self.asks.close(&mut self.cx);
        for consumer in self.consumers.values_mut() {
            consumer.leave(&mut self.cx, None);
        }
        self.compose_heartbeat();
        self.closing = Some(Closing { tickets: vec![ticket], farewells: None, done: false });
    }

    /// Finishes what waits for consumers to have left, and for the brokers to
    /// have been told.
    pub(super) fn look_who_left(&mut self) {
        let cx = &mut self.cx;
        self.consumers.retain(|id, consumer| {
            let Some(tickets) = consumer.has_left() else { return true };
            for ticket in tickets {
                cx.complete(ticket, Done::Closed);
            }
            cx.outputs.push_back(Output::Left { consumer: *id });
            false
        });
        let Some(closing) = self.closing.as_mut().filter(|closing| !closing.done) else { return };
        if !self.consumers.is_empty() {
            return;
        }
        let owed = *closing.farewells.get_or_insert_with(|| say_farewell(cx));
        if owed == 0 {
            closing.done = true;
            for ticket in std::mem::take(&mut closing.tickets) {
                cx.complete(ticket, Done::Closed);
            }
        }
    }
}

/// Tells the brokers that the producer is gone. Returns how many were told.
fn say_farewell(cx: &mut Context) -> usize {
    let mut brokers = cx.routes.brokers();
    brokers.retain(|addr| cx.links.is_up(*addr));
    for addr in &brokers {
        let header = UnregisterHeader {
            client_id: &cx.client_id,
            producer_group: Some(&cx.config.producer_group),
            consumer_group: None,
        };
        let (fields, timeout) = (header.fields(), cx.config.request_timeout);
        cx.call(
            *addr,
            request::UNREGISTER_CLIENT,
            fields,
            Default::default(),
            timeout,
            Purpose::Farewell,
        );
    }
    brokers.len()
}
