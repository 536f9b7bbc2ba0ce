//! 34, 35, 38, 40: who is there. Membership is not durable: members say again
//! every 30 seconds that they live, and a closed connection says that they don't.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    Broker, Output,
    apply::Needed,
    command::{Command, GroupConfig},
    config::limit,
    retry::BackOff,
    subscriptions::{Disagreement, GroupSubscriptions, MemberSubscriptions},
};
use crate::{
    error::Rejected,
    ids::{ConnId, Name},
    message::MAX_GROUP,
    runtime::Disk,
    time::Now,
    wire::{
        Fields, Frame,
        body::{
            ConsumeFrom, ConsumeType, ConsumerConnections, ConsumerData, ConsumerIds,
            HeartbeatData, MemberConnection, MemberDisagreement, MessageModel, TagFilter,
            language_name,
        },
        code,
        header::{GroupHeader, UnregisterHeader},
        request,
    },
};

#[derive(Default)]
pub(super) struct Members {
    consumers: BTreeMap<Name, Group>,
    producers: BTreeMap<Name, BTreeMap<String, ConnId>>,
    of_connection: BTreeMap<ConnId, BTreeSet<Membership>>,
    opaque: i32,
}

#[derive(Default)]
struct Group {
    members: BTreeMap<String, Member>,
    model: MessageModel,
    consume_type: ConsumeType,
    consume_from: ConsumeFrom,
    subscriptions: GroupSubscriptions,
}

struct Member {
    conn: ConnId,
    /// Of its header: it decides how some bodies are written.
    language: u8,
    version: i32,
    subscriptions: MemberSubscriptions,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Membership {
    is_consumer: bool,
    group: Name,
    client: String,
}

/// What a heartbeat changed.
struct Heard {
    /// The group is no longer what it was.
    changed: bool,
    /// Its members want different things since then.
    disagrees: bool,
}

impl Group {
    /// Sees what the members want together; true if they disagree, newly.
    fn agree(&mut self, name: &Name) -> bool {
        let members = self.members.iter();
        let members = members.map(|(client, member)| (client.as_str(), &member.subscriptions));
        self.subscriptions.agree(name, members)
    }
}

impl Members {
    pub fn filter(&self, group: &str, topic: &str) -> Option<&TagFilter> {
        self.consumers.get(group)?.subscriptions.newest(topic)
    }

    /// Whether this client of the group speaks through this connection.
    pub fn is_member(&self, conn: ConnId, group: &str, client: &str) -> bool {
        let group = self.consumers.get(group);
        group.is_some_and(|group| group.members.get(client).is_some_and(|m| m.conn == conn))
    }

    /// The connections of a group's members, and the language of each.
    pub fn speakers(&self, group: &str) -> BTreeMap<ConnId, u8> {
        let members = self.consumers.get(group).map(|group| group.members.values());
        members.into_iter().flatten().map(|member| (member.conn, member.language)).collect()
    }

    /// What a reader with this subscription must not pass over, because newer
    /// members want it.
    pub fn unseen_by(
        &self,
        conn: ConnId,
        group: &str,
        topic: &str,
        filter: &TagFilter,
        version: i64,
    ) -> Option<&TagFilter> {
        let group = self.consumers.get(group)?;
        if group.model == MessageModel::Broadcasting || !group.subscriptions.is_mixed() {
            return None;
        }
        let said = group.members.values().filter(|member| member.conn == conn);
        let said = said.filter_map(|member| Some(member.subscriptions.get(topic)?.version)).max();
        group.subscriptions.unseen_by(topic, filter, version.max(said.unwrap_or(i64::MIN)))
    }

    /// Who of a group disagrees about what, if anybody.
    pub fn disagreements(&self) -> impl Iterator<Item = (&Name, &[Disagreement])> {
        let groups = self.consumers.iter();
        groups.map(|(name, group)| (name, group.subscriptions.disagreements()))
    }

    /// Whether any consumer of the group does.
    pub fn has_member(&self, conn: ConnId, group: &str) -> bool {
        let memberships = self.of_connection.get(&conn);
        memberships.is_some_and(|all| all.iter().any(|m| m.is_consumer && &*m.group == group))
    }

    /// Consumer groups with at least one member, and their client ids.
    pub fn consumers(&self) -> impl Iterator<Item = (&Name, impl Iterator<Item = &str>)> {
        self.consumers.iter().map(|(name, group)| (name, group.members.keys().map(String::as_str)))
    }

    /// The connections over which a producer group can be asked.
    pub fn producers(&self, group: &str) -> BTreeSet<ConnId> {
        self.producers.get(group).into_iter().flat_map(BTreeMap::values).copied().collect()
    }

    /// For a request of the broker's own.
    pub fn next_opaque(&mut self) -> i32 {
        self.opaque = self.opaque.wrapping_add(1);
        self.opaque
    }

    /// Refuses a heartbeat that would make its connection's memberships, or a
    /// group's subscriptions, more than anybody honest has.
    fn check_room(&self, conn: ConnId, data: &HeartbeatData) -> Result<(), Rejected> {
        let known = self.of_connection.get(&conn).map_or(0, BTreeSet::len);
        let said = data.consumers.len() + data.producer_groups.len();
        let topics = data.consumers.iter().map(|consumer| consumer.subscriptions.len()).max();
        if known + said > limit::MEMBERSHIPS || topics.unwrap_or(0) > limit::SUBSCRIPTIONS {
            let remark = "too many groups on one connection, or topics in one group";
            return Err(Rejected::new(code::SYSTEM_BUSY, remark));
        }
        Ok(())
    }

    /// Takes a consumer's heartbeat.
    fn consumer(&mut self, conn: ConnId, from: &Frame, client: &str, data: &ConsumerData) -> Heard {
        let name: Name = data.group.as_str().into();
        let group = self.consumers.entry(name.clone()).or_default();
        group.model = data.message_model;
        group.consume_type = data.consume_type;
        group.consume_from = data.consume_from;
        let before = group.members.remove(client);
        let is_new = before.is_none();
        let known = before.map(|member| member.subscriptions).unwrap_or_default();
        let (subscriptions, is_other) = known.replaced_by(&data.subscriptions);
        let (language, version) = (from.language, from.version);
        group.members.insert(client.to_owned(), Member { conn, language, version, subscriptions });
        let disagrees = (is_new || is_other) && group.agree(&name);
        self.belongs(
            conn,
            Membership { is_consumer: true, group: name, client: client.to_owned() },
        );
        Heard { changed: is_new || is_other, disagrees }
    }

    fn producer(&mut self, conn: ConnId, client: &str, group: &str) {
        let name: Name = group.into();
        self.producers.entry(name.clone()).or_default().insert(client.to_owned(), conn);
        self.belongs(
            conn,
            Membership { is_consumer: false, group: name, client: client.to_owned() },
        );
    }

    fn belongs(&mut self, conn: ConnId, membership: Membership) {
        self.of_connection.entry(conn).or_default().insert(membership);
    }

    /// Takes a member out, unless it has come back on another connection;
    /// true if its group lost it.
    fn remove(&mut self, conn: ConnId, membership: &Membership) -> bool {
        if let Some(memberships) = self.of_connection.get_mut(&conn) {
            memberships.remove(membership);
            if memberships.is_empty() {
                self.of_connection.remove(&conn);
            }
        }
        let Membership { is_consumer, group, client } = membership;
        if *is_consumer {
            let Some(found) = self.consumers.get_mut(group) else { return false };
            if found.members.get(client).is_none_or(|member| member.conn != conn) {
                return false;
            }
            found.members.remove(client);
            found.agree(group);
            if found.members.is_empty() {
                self.consumers.remove(group);
            }
            return true;
        }
        if let Some(found) = self.producers.get_mut(group) {
            if found.get(client) == Some(&conn) {
                found.remove(client);
            }
            if found.is_empty() {
                self.producers.remove(group);
            }
        }
        false
    }

    /// Takes out all members of a connection; returns the consumer groups that
    /// lost one.
    pub fn closed(&mut self, conn: ConnId) -> BTreeSet<Name> {
        let memberships = self.of_connection.remove(&conn).unwrap_or_default();
        let mut changed = BTreeSet::new();
        for membership in memberships {
            if self.remove(conn, &membership) {
                changed.insert(membership.group);
            }
        }
        changed
    }
}

impl<D: Disk> Broker<D> {
    pub(super) fn heartbeat(
        &mut self,
        _now: Now,
        conn: ConnId,
        frame: Frame,
    ) -> Result<(), Rejected> {
        let data = HeartbeatData::parse(&frame.body)?;
        self.members.check_room(conn, &data)?;
        let leads = !self.is_following();
        // The group and its retry topic must exist before the answer leaves:
        // consumers ask for that route next.
        let unknown = data.consumers.iter().find(|c| self.state.group(&c.group).is_none());
        if let Some(consumer) = unknown.filter(|_| leads) {
            let group = self.implied_group(&consumer.group)?;
            let needed = Needed::Group(group.name.clone());
            return self.await_creation(conn, frame, needed, Command::Group(group));
        }
        let mut changed = BTreeSet::new();
        for consumer in &data.consumers {
            let heard = self.members.consumer(conn, &frame, &data.client_id, consumer);
            if heard.changed {
                changed.insert(consumer.group.as_str().into());
            }
            self.counters.disagreements += u64::from(heard.disagrees);
        }
        for group in &data.producer_groups {
            self.members.producer(conn, &data.client_id, group);
        }
        self.reply_ok(conn, frame.reply_to(), Fields::default());
        if !leads {
            return Ok(());
        }
        self.producers_came(&data.producer_groups);
        for consumer in &data.consumers {
            self.remind_of_resets(conn, frame.language, &consumer.group);
        }
        self.notify(changed);
        Ok(())
    }

    /// The group that the first word of an unknown one creates.
    pub(super) fn implied_group(&self, name: &str) -> Result<GroupConfig, Rejected> {
        let refuse = |why: String| Err(Rejected::new(code::SUBSCRIPTION_GROUP_NOT_EXIST, why));
        if name.is_empty() || name.len() > MAX_GROUP {
            return refuse(format!("a group has 1 to {MAX_GROUP} characters, not {}", name.len()));
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"%|_-".contains(&b)) {
            return refuse(format!("the group {name:?} has characters beyond [%|a-zA-Z0-9_-]"));
        }
        if self.state.counts().1 >= limit::TOPICS {
            return refuse(format!("there are too many groups to create {name}"));
        }
        // RocketMQ's defaults.
        Ok(GroupConfig {
            name: name.into(),
            retry_queues: 1,
            retry_max: 16,
            back_off: BackOff::default(),
        })
    }

    pub(super) fn unregister_client(
        &mut self,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), Rejected> {
        let header = UnregisterHeader::parse(&frame.fields)?;
        let mut changed = BTreeSet::new();
        for (is_consumer, group) in [(true, header.consumer_group), (false, header.producer_group)]
        {
            let Some(group) = group else { continue };
            let group: Name = group.into();
            let client = header.client_id.to_owned();
            let membership = Membership { is_consumer, group: group.clone(), client };
            if self.members.remove(conn, &membership) {
                changed.insert(group);
            }
        }
        self.reply_ok(conn, frame.reply_to(), Fields::default());
        self.notify(changed);
        Ok(())
    }

    pub(super) fn consumer_list(&mut self, conn: ConnId, frame: &Frame) -> Result<(), Rejected> {
        let header = GroupHeader::parse(&frame.fields)?;
        let Some(group) = self.members.consumers.get(header.group) else {
            let remark = format!("no consumer of the group {} is connected", header.group);
            return Err(Rejected::new(code::SYSTEM_ERROR, remark));
        };
        let body = ConsumerIds { ids: group.members.keys().cloned().collect() }.to_bytes();
        self.reply(conn, frame.reply_to(), code::SUCCESS, "", Fields::default(), vec![body]);
        Ok(())
    }

    /// 203: who the members are, what they want, and whether they agree.
    pub(super) fn consumer_connections(
        &mut self,
        conn: ConnId,
        frame: &Frame,
    ) -> Result<(), Rejected> {
        let header = GroupHeader::parse(&frame.fields)?;
        let Some(group) = self.members.consumers.get(header.group) else {
            let remark = format!("no consumer of the group {} is connected", header.group);
            return Err(Rejected::new(code::CONSUMER_NOT_ONLINE, remark));
        };
        let member = |(client, member): (&String, &Member)| MemberConnection {
            client_id: client.clone(),
            client_addr: self.sessions.peer(member.conn).map_or(String::new(), |a| a.to_string()),
            language: language_name(member.language).into(),
            version: member.version,
        };
        let disagreement = |found: &Disagreement| MemberDisagreement {
            topic: found.topic.clone(),
            client_id: found.client.clone(),
            expression: found.expression.clone(),
            newest: found.newest.clone(),
        };
        let body = ConsumerConnections {
            members: group.members.iter().map(member).collect(),
            subscriptions: group.subscriptions.all(),
            consume_type: group.consume_type,
            message_model: group.model,
            consume_from: group.consume_from,
            disagreements: group.subscriptions.disagreements().iter().map(disagreement).collect(),
        };
        self.reply_body(conn, frame.reply_to(), body.to_bytes());
        Ok(())
    }

    /// Tells all members of these groups to share out their queues again. It is
    /// for the leader to say who they are.
    pub(super) fn notify(&mut self, groups: BTreeSet<Name>) {
        if self.is_following() {
            return;
        }
        for name in groups {
            let Some(group) = self.members.consumers.get(&name) else { continue };
            if group.model == MessageModel::Broadcasting {
                continue;
            }
            let conns: BTreeSet<ConnId> = group.members.values().map(|m| m.conn).collect();
            for conn in conns {
                self.members.opaque = self.members.opaque.wrapping_add(1);
                let fields = GroupHeader { group: &name }.fields();
                let code = request::NOTIFY_CONSUMER_IDS_CHANGED;
                let frame = Frame::request(code, self.members.opaque, fields, Bytes::new());
                let packet = frame.one_way().encode();
                self.outputs.push_back(Output::Send { conn, packet });
            }
        }
    }
}
