//! What must hold of a group at every step, and once it is well again.

use super::{super::super::*, Cluster, Committed, FAIR, Node};
use crate::ids::LogIndex;

impl Cluster {
    /// What must hold after every step of a replica.
    pub(super) fn check(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let member = node.member.as_mut().expect("it is up");
        if member.role() == Role::Leader {
            assert!(!member.log().is_distrusted(), "who lost its log does not lead");
            let known = *self.leaders.entry(member.term()).or_insert(member.id());
            assert_eq!(known, member.id(), "{} has two leaders", member.term());
        }
        while node.checked < member.committed() {
            let from = node.checked;
            let entry = member.entry_at(from).unwrap().expect("committed means written");
            let number = entry.place.index.0 as usize - 1;
            let (term, kind, start) = (entry.place.term, entry.kind, entry.place.start);
            node.folding.fold(&entry);
            let end = entry.place.end;
            if self.may_lose
                && let Some(known) = self.committed.get(number)
                && known.term < term
            {
                self.committed.truncate(number);
                self.digests.split_off(&entry.place.index);
                self.acked.retain(|_, index| *index < entry.place.index);
            }
            let digest = *self.digests.entry(entry.place.index).or_insert(node.folding.digest);
            assert_eq!(digest, node.folding.digest, "all fold the same");
            let parts = entry.parts.into_iter().map(|(_, part)| part).collect();
            let found = Committed { term, kind, start, parts };
            match self.committed.get(number) {
                Some(known) => assert!(*known == found, "entry {} differs", number + 1),
                None => {
                    assert_eq!(number, self.committed.len(), "what is committed has no gaps");
                    self.committed.push(found);
                }
            }
            node.checked = end;
        }
        let (committed, log) = (member.committed(), member.log());
        node.proposed.retain(|(place, id)| {
            let is_there = log.term_at(place.index) == Some(place.term);
            if is_there && place.end <= committed {
                self.acked.insert(*id, place.index);
            }
            is_there && place.end > committed
        });
        self.check_leases();
    }

    /// While one replica's lease runs, no other one leads in a later term.
    fn check_leases(&self) {
        let up = (0..self.nodes.len()).filter(|at| self.is_up(*at));
        let leaders: Vec<usize> = up.filter(|at| self.member(*at).role() == Role::Leader).collect();
        let newest = leaders.iter().map(|at| self.member(*at).term()).max();
        for at in leaders {
            let member = self.member(at);
            let holds = member.lease_until() > self.clock(at);
            assert!(!holds || Some(member.term()) == newest, "a lease outlived its term");
        }
    }

    /// Everybody is up and hears everybody: all must converge, and what was
    /// acknowledged must be there.
    pub fn heal_and_judge(&mut self) {
        self.cut.clear();
        self.weather = FAIR;
        for at in 0..self.nodes.len() {
            if !self.is_up(at) {
                self.start(at);
            }
        }
        self.run_till("leader", |cluster| cluster.leader().is_some());
        let mut last = None;
        self.run_till("acknowledgement", |cluster| {
            let leader = cluster.leader();
            last = last.or_else(|| leader.and_then(|leader| cluster.propose(leader)));
            let acked = last.is_some_and(|id| cluster.acked.contains_key(&id));
            if !acked && leader.is_some_and(|leader| cluster.nodes[leader].proposed.is_empty()) {
                last = None;
            }
            if let Some(leader) = leader {
                cluster.advance(leader);
            }
            acked
        });
        let end = LogIndex(self.committed.len() as u64);
        self.run_till("agreement", |cluster| {
            let nodes = cluster.members().into_iter();
            nodes.into_iter().all(|at| cluster.member(at).committed_index() >= end)
        });
        for (id, index) in &self.acked {
            let entry = &self.committed[index.0 as usize - 1];
            assert_eq!(entry.parts[0][..8], id.to_le_bytes(), "proposal {id} is lost");
        }
        self.run_till("trust", |cluster| {
            let members = cluster.members().into_iter();
            members.into_iter().all(|at| !cluster.member(at).log().is_distrusted())
        });
    }

    /// Whether the group may lose a disk: three voters at least, all of them up
    /// and trusted, and no change on its way that would count on them.
    pub fn is_whole(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let configuration = self.member(leader).configuration();
        let is_settled = !configuration.is_joint() && configuration.learners().count() == 0;
        if !is_settled || configuration.seats.len() < 3 {
            return false;
        }
        let sound = |node: &Node| {
            node.member.as_ref().is_some_and(|member| {
                member.is_removed()
                    || !(member.log().is_distrusted() || member.log().is_repairing())
            })
        };
        self.cut.is_empty() && self.nodes.iter().all(sound)
    }

    /// The nodes of the newest configuration.
    pub fn members(&self) -> Vec<usize> {
        let up = self.nodes.iter().filter_map(|node| node.member.as_ref());
        let newest =
            up.map(Member::configuration).max_by_key(|known| (known.since, known.seats.len()));
        let seats = newest.into_iter().flat_map(|known| known.seats.keys());
        seats.map(|id| id.0 as usize - 1).collect()
    }
}
