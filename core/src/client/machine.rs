//! The client itself: hands each input to the part that it concerns.

mod closing;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use super::{
    Answer, Ask, ClientConfig, ClientError, Command, ConsumerConfig, ConsumerId, Done, Input,
    Output, SendError, Ticket,
    asks::Asks,
    consumer::Consumer,
    context::{CallFailed, Context, Links, Purpose, Reply, Timer, Timers},
    leaders::not_leader,
    outgoing::MessageIds,
    producer::{Kind, Producer},
    routes::{News, Routes},
    transactions::Checks,
};
use crate::{
    error::Rejected,
    ids::Name,
    message::hex,
    rng::Rng,
    time::{Now, Time},
    wire::{
        Fields, Frame,
        body::{HeartbeatData, ResetOffsets},
        code,
        header::{GroupHeader, ResetOffsetHeader},
        request,
    },
};
use closing::Closing;

/// The client.
pub struct ClientCore {
    cx: Context,
    producer: Producer,
    asks: Asks,
    checks: Checks,
    consumers: BTreeMap<ConsumerId, Consumer>,
    next_consumer: u64,
    closing: Option<Closing>,
}

impl ClientCore {
    /// `seed` makes ids and jitter; two clients with one seed take each other's
    /// ids.
    pub fn new(config: ClientConfig, seed: u64) -> ClientCore {
        let mut rng = Rng::new(seed);
        let (ids, number) = (MessageIds::new(&mut rng), Rng::new(!seed).next());
        let drawn = || format!("stormglass@{}", hex(&seed.to_be_bytes()));
        let client_id = config.client_id.clone().unwrap_or_else(drawn);
        let cx = Context {
            now: Now::default(),
            config,
            client_id,
            heartbeat: Default::default(),
            keeps_links: false,
            rng,
            timers: Timers::default(),
            routes: Routes::default(),
            links: Links::default(),
            outputs: VecDeque::new(),
        };
        let mut core = ClientCore {
            cx,
            producer: Producer::new(ids, number),
            asks: Asks::default(),
            checks: Checks::default(),
            consumers: BTreeMap::new(),
            next_consumer: 0,
            closing: None,
        };
        core.compose_heartbeat();
        core.cx.timers.set(Time::ZERO, Timer::Heartbeat);
        core
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        self.cx.now = now;
        match input {
            Input::Command { ticket, command } => self.on_command(ticket, command),
            Input::Taken { delivery } => {
                if let Some(consumer) = self.consumers.get_mut(&delivery.consumer) {
                    consumer.taken(&self.cx, delivery.number);
                }
            }
            Input::Settle { delivery, verdict } => {
                if let Some(consumer) = self.consumers.get_mut(&delivery.consumer) {
                    consumer.settle(&mut self.cx, delivery.number, verdict);
                    consumer.deliver(&mut self.cx);
                }
            }
            Input::Frame { addr, frame } if frame.is_response() => {
                let purpose = self.cx.take_call(addr, frame.opaque);
                self.cx.heard_from(addr);
                let told = not_leader(&frame).filter(|_| purpose.is_some());
                let led_anew = told.map(|told| self.cx.on_not_leader(addr, Some(told)));
                if let Some(purpose) = purpose {
                    self.on_reply(purpose, Ok(frame));
                }
                self.on_leaders(led_anew.unwrap_or_default());
            }
            Input::Frame { addr, frame } => {
                self.cx.heard_from(addr);
                self.on_request(addr, frame);
            }
            Input::LinkUp { addr } => self.cx.links.on_up(addr),
            Input::LinkDown { addr, why } => {
                let failed = self.cx.on_link_down(addr, &why);
                self.on_failed(failed);
            }
            Input::Tick => {}
        }
        while let Some(timer) = self.cx.timers.pop_due(now.mono) {
            self.on_timer(timer);
        }
        self.look_who_left();
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.cx.outputs.pop_front()
    }

    /// When the value next wants to be ticked.
    pub fn deadline(&self) -> Option<Time> {
        self.cx.timers.next()
    }

    /// Nothing more will come out: the owner may drop it.
    pub fn is_closed(&self) -> bool {
        self.closing.as_ref().is_some_and(|closing| closing.done) && self.cx.outputs.is_empty()
    }

    pub fn client_id(&self) -> &str {
        &self.cx.client_id
    }

    fn on_command(&mut self, ticket: Ticket, command: Command) {
        let cx = &mut self.cx;
        if self.closing.is_some() {
            return self.refuse(ticket, command);
        }
        match command {
            Command::Send { messages, options } => {
                self.producer.send(cx, ticket, messages, options, Kind::Message);
            }
            Command::SendOneWay { message, options } => {
                self.producer.send(cx, ticket, vec![message], options, Kind::OneWay);
            }
            Command::SendHalf { message, options } => {
                self.producer.send(cx, ticket, vec![message], options, Kind::Half);
            }
            Command::OpenTransactions { topics } => {
                self.checks.open(cx, topics.iter().map(|topic| topic.as_str().into()).collect());
                cx.complete(ticket, Done::Answered(Ok(Answer::Done)));
            }
            Command::Subscribe(config) => {
                let subscribed = self.subscribe(*config);
                self.cx.complete(ticket, Done::Subscribed(subscribed));
            }
            Command::Assignment(id) => {
                let queues = self.consumers.get(&id).map(Consumer::assignment).unwrap_or_default();
                cx.complete(ticket, Done::Assignment(queues));
            }
            Command::Offsets(id) => {
                let offsets = self.consumers.get(&id).map(Consumer::offsets).unwrap_or_default();
                cx.complete(ticket, Done::Offsets(offsets));
            }
            Command::CloseConsumer(id) => match self.consumers.get_mut(&id) {
                Some(consumer) => {
                    consumer.leave(cx, Some(ticket));
                    self.compose_heartbeat();
                }
                None => cx.complete(ticket, Done::Closed),
            },
            Command::Ask(ask) => {
                if let Ask::EndTransaction { half, .. } = &ask {
                    self.checks.on_answer(half);
                }
                self.asks.ask(cx, ticket, ask);
            }
            Command::Close => self.close(ticket),
        }
    }

    fn refuse(&mut self, ticket: Ticket, command: Command) {
        let refused = || Rejected::new(code::SERVICE_NOT_AVAILABLE, "the client is closed");
        let done = match command {
            Command::Send { .. } => Done::Sent(Err(SendError::Refused(refused()))),
            Command::SendOneWay { .. } => Done::HandedOver(Err(SendError::Refused(refused()))),
            Command::Subscribe(_) => Done::Subscribed(Err(ClientError::Closed)),
            Command::Assignment(_) => Done::Assignment(Vec::new()),
            Command::Offsets(_) => Done::Offsets(BTreeMap::new()),
            Command::SendHalf { .. } => Done::HalfSent(Err(SendError::Refused(refused()))),
            Command::Ask(_) | Command::OpenTransactions { .. } => {
                Done::Answered(Err(ClientError::Closed))
            }
            Command::CloseConsumer(_) => Done::Closed,
            Command::Close => {
                if let Some(closing) = self.closing.as_mut().filter(|closing| !closing.done) {
                    return closing.tickets.push(ticket);
                }
                Done::Closed
            }
        };
        self.cx.complete(ticket, done);
    }

    fn subscribe(&mut self, config: ConsumerConfig) -> Result<ConsumerId, ClientError> {
        if self.consumers.values().any(|consumer| consumer.group() == config.group) {
            // Brokers tell members apart by client id alone.
            let why = format!("this client is a member of {} already", config.group);
            return Err(ClientError::Refused(Rejected::new(code::INVALID_PARAMETER, why)));
        }
        let id = ConsumerId(self.next_consumer);
        let consumer = Consumer::new(&self.cx, id, config)?;
        self.next_consumer += 1;
        self.consumers.insert(id, consumer);
        self.compose_heartbeat();
        if let Some(consumer) = self.consumers.get_mut(&id) {
            consumer.start(&mut self.cx);
        }
        Ok(id)
    }

    fn compose_heartbeat(&mut self) {
        let members = self.consumers.values().filter(|consumer| !consumer.is_leaving());
        let heartbeat = HeartbeatData {
            client_id: self.cx.client_id.clone(),
            producer_groups: vec![self.cx.config.producer_group.clone()],
            consumers: members.map(Consumer::data).collect(),
        };
        self.cx.heartbeat = heartbeat.to_bytes();
    }

    fn on_reply(&mut self, purpose: Purpose, reply: Reply) {
        let cx = &mut self.cx;
        match purpose {
            Purpose::Heartbeat(addr) => cx.on_heartbeat_reply(addr, reply),
            Purpose::Send(ticket) => self.producer.on_reply(cx, ticket, reply),
            Purpose::Ask(ticket, step) => self.asks.on_reply(cx, ticket, step, reply),
            Purpose::Consumer(id, call) => {
                if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.on_reply(cx, call, reply);
                    consumer.deliver(cx);
                }
            }
            Purpose::Route { topic } => {
                let news = cx.on_route_reply(&topic, reply);
                self.on_news(news);
            }
            Purpose::Search { set } => {
                let led = cx.on_searched(set, reply);
                self.on_leaders(led);
            }
            Purpose::Farewell => {
                if let Some(Closing { farewells: Some(owed), .. }) = &mut self.closing {
                    *owed -= 1;
                }
            }
        }
    }

    /// These topics have another leader, or one again.
    fn on_leaders(&mut self, topics: Vec<Name>) {
        self.on_news(topics.into_iter().map(|topic| (topic, News::Found)).collect());
    }

    fn on_news(&mut self, news: Vec<(Name, News)>) {
        let cx = &mut self.cx;
        for (topic, news) in news {
            self.producer.on_news(cx, &topic, &news);
            self.asks.on_news(cx, &topic, &news);
            if news == News::Found {
                if self.checks.concerns(&topic) {
                    self.checks.meet_brokers(cx);
                }
                for consumer in self.consumers.values_mut() {
                    consumer.on_topic_changed(cx, &topic);
                }
            }
        }
    }

    fn on_failed(&mut self, failed: Vec<(Purpose, CallFailed)>) {
        for (purpose, why) in failed {
            self.on_reply(purpose, Err(why));
        }
    }

    /// A broker wants something.
    fn on_request(&mut self, addr: SocketAddr, frame: Frame) {
        if frame.code == request::NOTIFY_CONSUMER_IDS_CHANGED {
            let Ok(GroupHeader { group }) = GroupHeader::parse(&frame.fields) else { return };
            for consumer in self.consumers.values_mut().filter(|c| c.group() == group) {
                consumer.rebalance_now(&mut self.cx);
            }
        } else if frame.code == request::CHECK_TRANSACTION_STATE {
            self.checks.on_check(&mut self.cx, addr, &frame);
        } else if frame.code == request::RESET_CONSUMER_CLIENT_OFFSET {
            let Ok(reset) = ResetOffsetHeader::parse(&frame.fields) else { return };
            let Ok(offsets) = ResetOffsets::parse(&frame.body) else { return };
            for consumer in self.consumers.values_mut().filter(|c| c.group() == reset.group) {
                consumer.on_reset(&mut self.cx, &offsets);
            }
        } else if !frame.is_one_way() {
            let remark = format!("a client does not answer request {}", frame.code);
            let code = code::REQUEST_CODE_NOT_SUPPORTED;
            let packet = frame.reply_to().answer(code, &remark, Fields::default(), Vec::new());
            self.cx.outputs.push_back(Output::Send { addr, packet });
        }
    }

    fn on_timer(&mut self, timer: Timer) {
        let cx = &mut self.cx;
        match timer {
            Timer::Call(opaque) => {
                let failed = cx.on_call_timeout(opaque);
                self.on_failed(failed);
            }
            Timer::LinkSilence(addr) => cx.on_silence_timer(addr),
            Timer::Heartbeat => {
                let (now, interval) = (cx.now.mono, cx.config.heartbeat_interval);
                cx.timers.set(now + interval, Timer::Heartbeat);
                self.checks.meet_brokers(cx);
                for broker in cx.routes.brokers() {
                    // A producer alone has no need to meet brokers it sends nothing to.
                    if !self.consumers.is_empty() || cx.links.is_up(broker) {
                        cx.send_heartbeat(broker);
                    }
                }
            }
            Timer::Relink(addr) => cx.relink(addr),
            Timer::Route(topic) => cx.on_route_timer(&topic),
            Timer::Search(set) => cx.on_search_timer(set),
            Timer::Send(ticket) => self.producer.on_timer(cx, ticket),
            Timer::Ask(ticket) => self.asks.on_timer(cx, ticket),
            Timer::Rebalance(id) => {
                if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.on_rebalance_timer(cx);
                    consumer.deliver(cx);
                }
            }
            Timer::Commit(id) => {
                if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.on_commit_timer(cx);
                }
            }
            Timer::Locks(id) => {
                if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.on_locks_timer(cx);
                }
            }
            Timer::Return(id, delivery) => {
                if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.try_return(cx, delivery);
                }
            }
            Timer::Queue(id, queue) => {
                if let Some(consumer) = self.consumers.get_mut(&id) {
                    consumer.step(cx, queue);
                    consumer.deliver(cx);
                }
            }
        }
    }
}
