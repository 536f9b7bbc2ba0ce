//! Who plays which part in a fault: leaders and followers are known only when
//! it strikes. A plan writes such a word with the number of its fault, as in
//! `leader#2.1`; whatever undoes the fault says it again and means the same.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
};

use stormglass_core::{ids::Name, rng::Rng};
use stormglass_scenarios::{Part, RoleWord};

use super::{Fault, Struck};
use crate::digest::Fnv;

/// How a plan writes a word that is cast when the fault strikes.
pub fn planned(word: &str, fault: usize, nth: u32) -> Name {
    format!("{word}#{fault}.{nth}").as_str().into()
}

/// What is known of the brokers at the moment.
pub trait Stage {
    /// Who belongs to a set.
    fn members(&self, set: usize) -> Vec<Name>;

    /// Who serves as its leader, or was the last to do so.
    fn leader(&self, set: usize) -> Option<Name>;

    fn is_running(&self, node: &str) -> bool;
}

/// The parts given away so far.
pub struct Casting {
    seed: u64,
    cast: BTreeMap<Name, Vec<Name>>,
}

impl Casting {
    pub fn new(seed: u64) -> Casting {
        Casting { seed, cast: BTreeMap::new() }
    }

    /// The fault with nodes in place of words: several if one word means
    /// several nodes, none if nobody is there to play a part.
    pub fn cast(&mut self, planned: &Fault, stage: &impl Stage) -> Vec<Fault> {
        let mut fault = planned.clone();
        match fault.struck() {
            Struck::Node(word) => {
                let word = word.clone();
                let [nodes, _] = self.play([&[word], &[]], planned.is_an_end(), stage);
                nodes.into_iter().map(|node| planned.on(node)).collect()
            }
            Struck::Links(a, b) => {
                [*a, *b] = self.play([a, b], planned.is_an_end(), stage);
                if a.is_empty() || b.is_empty() { Vec::new() } else { vec![fault] }
            }
        }
    }

    /// Gives the parts of one fault away, the most precise words first: nobody
    /// plays on both sides.
    fn play(&mut self, sides: [&[Name]; 2], again: bool, stage: &impl Stage) -> [Vec<Name>; 2] {
        let words = (0..).zip(sides).flat_map(|(side, words)| words.iter().map(move |w| (side, w)));
        let mut words: Vec<(usize, &Name)> = words.collect();
        words.sort_by_key(|(_, word)| role(word).map(|role| precision(role.part)));
        let mut cast = [Vec::new(), Vec::new()];
        for (side, word) in words {
            match role(word) {
                None => cast[side].push(word.clone()),
                Some(role) => {
                    if !again && !self.cast.contains_key(word) {
                        let chosen = self.choose(word, role, &cast[side], &cast[1 - side], stage);
                        self.cast.insert(word.clone(), chosen);
                    }
                    cast[side].extend(self.cast.get(word).into_iter().flatten().cloned());
                }
            }
        }
        cast.each_mut().map(|side| {
            side.sort();
            side.dedup();
            std::mem::take(side)
        })
    }

    /// Who is meant by a word beside those who are already on its side.
    fn choose(
        &self,
        word: &Name,
        role: RoleWord,
        ours: &[Name],
        theirs: &[Name],
        stage: &impl Stage,
    ) -> Vec<Name> {
        let set = stage.members(role.set);
        let mut digest = Fnv::default();
        word.hash(&mut digest);
        let mut rng = Rng::new(self.seed ^ digest.finish());
        let mut draw = |from: &[&Name], count: usize| -> Vec<Name> {
            let mut left: Vec<&Name> = from.to_vec();
            let count = count.min(left.len());
            (0..count).map(|_| left.remove(rng.below(left.len() as u64) as usize).clone()).collect()
        };
        let free: Vec<&Name> = set.iter().filter(|node| !theirs.contains(node)).collect();
        let leader = stage.leader(role.set);
        let running = |nodes: &[&Name]| -> Vec<Name> {
            nodes.iter().filter(|node| stage.is_running(node)).map(|node| (*node).clone()).collect()
        };
        match role.part {
            Part::All => free.into_iter().cloned().collect(),
            Part::Leader => {
                let running = running(&free);
                match leader.filter(|leader| running.contains(leader)) {
                    Some(leader) => vec![leader],
                    None => draw(&running.iter().collect::<Vec<_>>(), 1),
                }
            }
            Part::Followers | Part::AnyFollower => {
                let others = |node: &&&Name| leader.as_ref() != Some(**node);
                let followers: Vec<&Name> = free.iter().filter(others).copied().collect();
                if role.part == Part::Followers {
                    return followers.into_iter().cloned().collect();
                }
                let idle: Vec<&Name> =
                    followers.into_iter().filter(|node| !ours.contains(node)).collect();
                draw(&running(&idle).iter().collect::<Vec<_>>(), 1)
            }
            Part::Majority | Part::Minority => {
                let (mut chosen, others): (Vec<&Name>, Vec<&Name>) =
                    free.into_iter().partition(|node| ours.contains(node));
                let count = role.count(set.len());
                chosen.truncate(count);
                let drawn = draw(&others, count - chosen.len());
                chosen.into_iter().cloned().chain(drawn).collect()
            }
        }
    }
}

/// The word of a plan, if it is one that is to be cast.
fn role(word: &str) -> Option<RoleWord> {
    word.split_once('#').and_then(|(word, _)| RoleWord::parse(word))
}

/// Precise words come first.
fn precision(part: Part) -> u8 {
    match part {
        Part::Leader => 0,
        Part::AnyFollower => 1,
        Part::Minority => 2,
        Part::Majority => 3,
        Part::Followers => 4,
        Part::All => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Led(&'static str);

    impl Stage for Led {
        fn members(&self, _set: usize) -> Vec<Name> {
            (1..=5).map(|n| format!("broker-{n}").as_str().into()).collect()
        }

        fn leader(&self, _set: usize) -> Option<Name> {
            Some(self.0.into())
        }

        fn is_running(&self, node: &str) -> bool {
            node != "broker-5"
        }
    }

    fn partition(a: &[&str], b: &[&str], one_way: bool) -> Fault {
        let side = |words: &[&str]| words.iter().map(|word| Name::from(*word)).collect();
        Fault::Partition { a: side(a), b: side(b), one_way }
    }

    #[test]
    fn nobody_plays_on_both_sides_and_the_end_of_a_fault_means_whom_it_struck() {
        let mut casting = Casting::new(7);
        let cut = partition(&["minority#1.1", "leader#1.1", "clients-1"], &["majority#1.1"], true);
        let [Fault::Partition { a, b, .. }] = &*casting.cast(&cut, &Led("broker-3")) else {
            panic!("it strikes");
        };
        assert!(a.len() == 3 && a.contains(&"broker-3".into()), "{a:?}");
        assert!(b.len() == 3 && !b.iter().any(|node| a.contains(node)), "{b:?}");
        let Fault::Partition { a: words_a, b: words_b, one_way } = cut else { unreachable!() };
        let heal = Fault::Heal { a: words_a, b: words_b, one_way };
        let healed = Fault::Heal { a: a.clone(), b: b.clone(), one_way: true };
        assert_eq!(casting.cast(&heal, &Led("broker-1")), [healed]);
    }

    #[test]
    fn one_word_strikes_all_that_it_means_and_what_never_struck_does_not_end() {
        let mut casting = Casting::new(7);
        let kill = |word: &str| Fault::Kill { node: word.into() };
        let killed = casting.cast(&kill("followers#1.1"), &Led("broker-2"));
        let others = ["broker-1", "broker-3", "broker-4", "broker-5"];
        assert_eq!(killed, others.map(kill));
        assert_eq!(casting.cast(&kill("leader#2.1"), &Led("broker-5")).len(), 1, "one that runs");
        assert_eq!(
            casting.cast(&Fault::Restart { node: "leader#3.1".into() }, &Led("broker-1")),
            []
        );
        assert_eq!(casting.cast(&kill("broker-4"), &Led("broker-1")), [kill("broker-4")]);
    }
}
