//! What the members of a group want, and whether they agree (L15).
//!
//! Members that want different things of a topic are an upgrade that is under
//! way, or a mistake. The newest subscription is the group's: an older member
//! gets what it asks for up to the first message that it would pass over and
//! the group wants; there its pull is refused (25), and the queue waits for a
//! newer member. So nothing is lost, an upgrade goes on as long as nothing is
//! at stake, and a mistake is a queue that visibly stands still.

use std::collections::BTreeMap;

use super::{config::limit, state::RETRY_PREFIX};
use crate::wire::body::{Subscription, TagFilter};

/// One subscription of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Milliseconds by custom: the greater, the newer.
    pub version: i64,
    pub expression: String,
    filter: TagFilter,
}

/// What a member said last, by topic.
#[derive(Default)]
pub struct MemberSubscriptions(BTreeMap<String, Wanted>);

impl MemberSubscriptions {
    pub fn get(&self, topic: &str) -> Option<&Wanted> {
        self.0.get(topic)
    }

    /// What it says now, and whether that is something else. A heartbeat without
    /// any is one that leaves them out.
    pub fn replaced_by(self, said: &[Subscription]) -> (MemberSubscriptions, bool) {
        if said.is_empty() {
            return (self, false);
        }
        let mut new = BTreeMap::new();
        for subscription in said.iter().take(limit::SUBSCRIPTIONS) {
            // An expression that nobody can parse is refused when it pulls.
            let Ok(filter) = subscription.filter() else { continue };
            let expression = subscription.expression.clone();
            let wanted = Wanted { version: subscription.version, expression, filter };
            new.insert(subscription.topic.clone(), wanted);
        }
        let is_other = new != self.0;
        (MemberSubscriptions(new), is_other)
    }
}

/// A member that wants something else of a topic than the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    pub topic: String,
    pub client: String,
    /// What it wants; none if it does not know the topic.
    pub expression: Option<String>,
    /// What the newest member wants.
    pub newest: String,
}

/// What a group's members want together.
#[derive(Default)]
pub struct GroupSubscriptions {
    newest: BTreeMap<String, Wanted>,
    disagreements: Vec<Disagreement>,
}

impl GroupSubscriptions {
    /// The newest member's word about a topic.
    pub fn newest(&self, topic: &str) -> Option<&TagFilter> {
        self.newest.get(topic).map(|wanted| &wanted.filter)
    }

    /// The newest subscription to each topic.
    pub fn all(&self) -> BTreeMap<String, Subscription> {
        let newest = self.newest.iter().map(|(topic, wanted)| {
            (topic.clone(), Subscription::tags(topic, &wanted.expression, wanted.version))
        });
        newest.collect()
    }

    pub fn is_mixed(&self) -> bool {
        !self.disagreements.is_empty()
    }

    pub fn disagreements(&self) -> &[Disagreement] {
        &self.disagreements
    }

    /// What the group wants and a reader with this filter would pass over,
    /// unless that reader's subscription is newer still.
    pub fn unseen_by(&self, topic: &str, filter: &TagFilter, version: i64) -> Option<&TagFilter> {
        let newest = self.newest.get(topic)?;
        (version <= newest.version && newest.filter != *filter).then_some(&newest.filter)
    }

    /// Sees what the members want together; true if they disagree in a way that
    /// they did not before.
    pub fn agree<'a>(
        &mut self,
        group: &str,
        members: impl Iterator<Item = (&'a str, &'a MemberSubscriptions)> + Clone,
    ) -> bool {
        self.newest.clear();
        for (topic, wanted) in members.clone().flat_map(|(_, member)| &member.0) {
            match self.newest.get(topic) {
                Some(known) if known.version >= wanted.version => {}
                _ => drop(self.newest.insert(topic.clone(), wanted.clone())),
            }
        }
        let before = std::mem::take(&mut self.disagreements);
        for (client, member) in members {
            let topics = self.newest.iter().filter(|(topic, _)| !topic.starts_with(RETRY_PREFIX));
            for (topic, newest) in topics {
                let wanted = member.get(topic);
                if wanted.is_none_or(|wanted| wanted.filter != newest.filter) {
                    self.disagreements.push(Disagreement {
                        topic: topic.clone(),
                        client: client.to_owned(),
                        expression: wanted.map(|wanted| wanted.expression.clone()),
                        newest: newest.expression.clone(),
                    });
                }
            }
        }
        let mut is_new = false;
        for found in self.disagreements.iter().filter(|found| !before.contains(found)) {
            is_new = true;
            let Disagreement { topic, client, expression, newest } = found;
            let wants = expression.as_deref().unwrap_or("nothing");
            tracing::warn!(group, topic, client, wants, newest, "members want different things");
        }
        is_new
    }
}
