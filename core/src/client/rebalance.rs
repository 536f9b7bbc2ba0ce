//! Which queues a member owns. Every member computes the same answer from the
//! same two sorted lists, so nobody has to tell them.

use super::MessageQueue;

/// RocketMQ's default strategy, AVG: consecutive runs of equal length, the
/// first members one longer. None of them if `me` is not a member.
pub fn average<'a>(queues: &'a [MessageQueue], members: &[String], me: &str) -> &'a [MessageQueue] {
    debug_assert!(queues.is_sorted() && members.is_sorted());
    let Some(index) = members.iter().position(|member| member == me) else { return &[] };
    let (share, longer) = (queues.len() / members.len(), queues.len() % members.len());
    let start = index * share + index.min(longer);
    let len = share + usize::from(index < longer);
    &queues[start..start + len]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(count: u32) -> Vec<MessageQueue> {
        (0..count)
            .map(|queue| MessageQueue { topic: "t".into(), broker: "b".into(), queue })
            .collect()
    }

    /// The strategy as RocketMQ writes it down (AllocateMessageQueueAveragely).
    fn as_rocketmq(all: &[MessageQueue], members: &[String], index: usize) -> Vec<MessageQueue> {
        let modulo = all.len() % members.len();
        let size = if all.len() <= members.len() {
            1
        } else if modulo > 0 && index < modulo {
            all.len() / members.len() + 1
        } else {
            all.len() / members.len()
        };
        let start = if modulo > 0 && index < modulo { index * size } else { index * size + modulo };
        let range = size.min(all.len().saturating_sub(start));
        (0..range).map(|i| all[(start + i) % all.len()].clone()).collect()
    }

    #[test]
    fn each_queue_has_one_owner_and_it_is_rocketmqs_choice() {
        for (queue_count, member_count) in (0..20).flat_map(|q| (1..9).map(move |m| (q, m))) {
            let all = queues(queue_count);
            let members: Vec<String> = (0..member_count).map(|n| format!("c{n}")).collect();
            let mut owned = Vec::new();
            for (index, member) in members.iter().enumerate() {
                let mine = average(&all, &members, member);
                assert_eq!(mine, as_rocketmq(&all, &members, index));
                owned.extend_from_slice(mine);
            }
            assert_eq!(owned, all);
        }
    }

    #[test]
    fn a_stranger_owns_nothing() {
        assert!(average(&queues(4), &["a".to_owned()], "b").is_empty());
        assert!(average(&queues(4), &[], "b").is_empty());
    }
}
