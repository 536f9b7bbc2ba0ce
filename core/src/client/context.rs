//! What the parts of a client share: the time, the links with the calls that
//! wait on them, the routes, and the way out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;

use super::{
    ClientConfig, ConsumerId, Done, Output, Ticket, asks::AskStep, consumer::Call as ConsumerCall,
    routes::Routes,
};
use crate::{
    ids::Name,
    rng::Rng,
    time::{Now, Time},
    wire::{Fields, Frame, code, request},
};

/// How long a broker is left alone after a link to it was lost.
const RELINK: Duration = Duration::from_secs(1);

pub struct Context {
    pub now: Now,
    pub config: ClientConfig,
    pub client_id: String,
    /// The body that introduces this client to brokers.
    pub heartbeat: Bytes,
    /// Brokers must be able to reach this client: lost links are replaced.
    pub keeps_links: bool,
    pub rng: Rng,
    pub timers: Timers,
    pub routes: Routes,
    pub links: Links,
    pub outputs: VecDeque<Output>,
}

/// Why the client wants to be woken. A timer that is no longer needed fires
/// without harm: whoever is woken looks whether there is something to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    Call(i32),
    LinkSilence(SocketAddr),
    Heartbeat,
    /// A lost link to a broker is to be replaced.
    Relink(SocketAddr),
    Route(Name),
    /// Whether somebody leads this set by now.
    Search(Name),
    Send(Ticket),
    Ask(Ticket),
    Rebalance(ConsumerId),
    Commit(ConsumerId),
    Queue(ConsumerId, u64),
    Locks(ConsumerId),
    /// A message is to be given back again.
    Return(ConsumerId, u64),
}

#[derive(Default)]
pub struct Timers(BTreeSet<(Time, Timer)>);

impl Timers {
    pub fn set(&mut self, at: Time, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub fn cancel(&mut self, at: Time, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    pub fn next(&self) -> Option<Time> {
        self.0.first().map(|(at, _)| *at)
    }

    pub fn pop_due(&mut self, now: Time) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}

/// What an answer is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// Only that it comes matters.
    Heartbeat(SocketAddr),
    Route {
        topic: Name,
    },
    /// Whether it leads this set.
    Search {
        set: Name,
    },
    Send(Ticket),
    Ask(Ticket, AskStep),
    Consumer(ConsumerId, ConsumerCall),
    /// Taking leave, while the client closes.
    Farewell,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFailed {
    /// The request never left this machine.
    NotSent(String),
    /// It may have arrived.
    Lost(String),
}

impl CallFailed {
    pub fn why(&self) -> &str {
        let (CallFailed::NotSent(why) | CallFailed::Lost(why)) = self;
        why
    }
}

pub type Reply = Result<Frame, CallFailed>;

/// The links in use and the calls that wait on them.
#[derive(Default)]
pub struct Links {
    links: BTreeMap<SocketAddr, Link>,
    calls: BTreeMap<i32, Call>,
    next_opaque: i32,
}

#[derive(Default)]
struct Link {
    up: bool,
    /// Calls that wait for an answer.
    owed: usize,
    /// Since when an answer is owed and nothing has been heard.
    silent_since: Option<Time>,
}

struct Call {
    addr: SocketAddr,
    deadline: Time,
    purpose: Purpose,
}

impl Links {
    pub fn is_up(&self, addr: SocketAddr) -> bool {
        self.links.get(&addr).is_some_and(|link| link.up)
    }

    pub fn on_up(&mut self, addr: SocketAddr) {
        if let Some(link) = self.links.get_mut(&addr) {
            link.up = true;
        }
    }
}

impl Context {
    /// Sends a request whose outcome comes back under `purpose`, within
    /// `timeout` whatever happens.
    pub fn call(
        &mut self,
        addr: SocketAddr,
        code: i32,
        fields: Fields,
        body: Bytes,
        timeout: Duration,
        purpose: Purpose,
    ) {
        self.introduce(addr);
        self.links.next_opaque = self.links.next_opaque.wrapping_add(1);
        let opaque = self.links.next_opaque;
        let deadline = self.now.mono + timeout;
        self.timers.set(deadline, Timer::Call(opaque));
        self.links.calls.insert(opaque, Call { addr, deadline, purpose });
        let link = self.links.links.entry(addr).or_default();
        link.owed += 1;
        if link.silent_since.is_none() {
            link.silent_since = Some(self.now.mono);
            let at = self.now.mono + self.config.link_silence;
            self.timers.set(at, Timer::LinkSilence(addr));
        }
        let packet = Frame::request(code, opaque, fields, body).encode();
        self.outputs.push_back(Output::Send { addr, packet });
    }

    /// Sends a request that is never answered.
    pub fn call_one_way(&mut self, addr: SocketAddr, code: i32, fields: Fields, body: Bytes) {
        self.introduce(addr);
        self.links.next_opaque = self.links.next_opaque.wrapping_add(1);
        let opaque = self.links.next_opaque;
        self.links.links.entry(addr).or_default();
        let packet = Frame::request(code, opaque, fields, body).one_way().encode();
        self.outputs.push_back(Output::Send { addr, packet });
    }

    /// The first thing that a broker hears on a new link is who we are, so that
    /// it knows our groups again after a restart.
    pub fn introduce(&mut self, addr: SocketAddr) {
        if !self.links.links.contains_key(&addr) && self.routes.is_broker(addr) {
            self.links.links.insert(addr, Link::default());
            self.send_heartbeat(addr);
        }
    }

    pub fn send_heartbeat(&mut self, addr: SocketAddr) {
        let (body, timeout) = (self.heartbeat.clone(), self.config.request_timeout);
        self.call(
            addr,
            request::HEART_BEAT,
            Fields::default(),
            body,
            timeout,
            Purpose::Heartbeat(addr),
        );
    }

    /// A broker that was not ready has not heard who we are; or the link to one
    /// is to be there again.
    pub fn relink(&mut self, addr: SocketAddr) {
        if self.links.is_up(addr) {
            self.send_heartbeat(addr);
        } else if self.routes.brokers().contains(&addr) {
            self.introduce(addr);
        }
    }

    pub fn on_heartbeat_reply(&mut self, addr: SocketAddr, reply: Reply) {
        if reply.is_ok_and(|frame| frame.code == code::SYSTEM_BUSY) {
            self.timers.set(self.now.mono + RELINK, Timer::Relink(addr));
        }
    }

    /// What a response answers; none if it comes too late.
    pub fn take_call(&mut self, addr: SocketAddr, opaque: i32) -> Option<Purpose> {
        if self.links.calls.get(&opaque)?.addr != addr {
            return None;
        }
        let call = self.forget_call(opaque)?;
        Some(call.purpose)
    }

    fn forget_call(&mut self, opaque: i32) -> Option<Call> {
        let call = self.links.calls.remove(&opaque)?;
        self.timers.cancel(call.deadline, Timer::Call(opaque));
        if let Some(link) = self.links.links.get_mut(&call.addr) {
            link.owed -= 1;
        }
        Some(call)
    }

    /// Something arrived on the link. Called after the answered call, if any,
    /// was taken.
    pub fn heard_from(&mut self, addr: SocketAddr) {
        let now = self.now.mono;
        if let Some(link) = self.links.links.get_mut(&addr) {
            link.silent_since = (link.owed > 0).then_some(now);
        }
    }

    /// A call's time is up. Returns everything that fails with it.
    pub fn on_call_timeout(&mut self, opaque: i32) -> Vec<(Purpose, CallFailed)> {
        let Some(call) = self.forget_call(opaque) else { return Vec::new() };
        self.on_not_leader(call.addr, None);
        let why = format!("{} did not answer in time", call.addr);
        let link = self.links.links.get(&call.addr);
        let Some(link) = link.filter(|link| link.up) else {
            // What waits for the link must not go out after it was given up.
            let mut failed = vec![(call.purpose, CallFailed::NotSent(why))];
            failed.extend(self.close_link(call.addr, "it could not be reached in time"));
            return failed;
        };
        let silence = link.silent_since.map(|since| self.now.mono.since(since));
        let mut failed = vec![(call.purpose, CallFailed::Lost(why))];
        if silence.is_some_and(|silence| silence >= self.config.link_silence) {
            failed.extend(self.close_link(call.addr, "it has fallen silent"));
        }
        failed
    }

    /// A link may owe an answer for too long: a probe tells whether it lives.
    /// Without one, a connection that a partition killed would be noticed only
    /// when a held pull times out.
    pub fn on_silence_timer(&mut self, addr: SocketAddr) {
        let Some(link) = self.links.links.get(&addr) else { return };
        let Some(since) = link.silent_since.filter(|_| link.owed > 0) else { return };
        let due = since + self.config.link_silence;
        if self.now.mono < due {
            self.timers.set(due, Timer::LinkSilence(addr));
            return;
        }
        self.timers.set(self.now.mono + self.config.link_silence, Timer::LinkSilence(addr));
        if link.up {
            self.send_heartbeat(addr);
        }
    }

    fn close_link(&mut self, addr: SocketAddr, why: &str) -> Vec<(Purpose, CallFailed)> {
        self.outputs.push_back(Output::Close { addr });
        self.on_link_down(addr, why)
    }

    /// The link is gone. Returns the calls that fail with it, oldest first.
    pub fn on_link_down(&mut self, addr: SocketAddr, why: &str) -> Vec<(Purpose, CallFailed)> {
        let was_up = self.links.links.remove(&addr).is_some_and(|link| link.up);
        if self.keeps_links {
            self.timers.set(self.now.mono + RELINK, Timer::Relink(addr));
        }
        // What the owner has not taken yet must not go out over the next link.
        self.outputs
            .retain(|output| !matches!(output, Output::Send { addr: to, .. } if *to == addr));
        let on_it = self.links.calls.iter().filter(|(_, call)| call.addr == addr);
        let opaques: Vec<i32> = on_it.map(|(opaque, _)| *opaque).collect();
        if !opaques.is_empty() {
            self.on_not_leader(addr, None);
        }
        let why = format!("the link to {addr} is gone: {why}");
        let failed = |why: String| match was_up {
            true => CallFailed::Lost(why),
            false => CallFailed::NotSent(why),
        };
        opaques
            .into_iter()
            .filter_map(|opaque| self.forget_call(opaque))
            .map(|call| (call.purpose, failed(why.clone())))
            .collect()
    }

    pub fn complete(&mut self, ticket: Ticket, done: Done) {
        self.outputs.push_back(Output::Complete { ticket, done });
    }

    /// `base` doubled for each failure before this one, at most `cap`, and up
    /// to a half more by chance, so that clients do not return in step.
    pub fn backoff(&mut self, base: Duration, failures: u32, cap: Duration) -> Duration {
        let delay = base.saturating_mul(1 << failures.min(16)).min(cap);
        let jitter = self.rng.below(delay.as_micros() as u64 / 2 + 1);
        delay + Duration::from_micros(jitter)
    }
}
