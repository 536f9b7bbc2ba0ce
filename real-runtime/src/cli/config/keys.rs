//! Every key there is.

use super::value::Kind;

pub struct Key {
    /// As in the file, tables and keys joined by dots; `N` is a number.
    pub name: &'static str,
    pub kind: Kind,
    pub default: Option<&'static str>,
}

impl Key {
    /// Whether its value is for no eyes.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret)
    }
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>) -> Key {
    Key { name, kind, default }
}

const SECONDS: u64 = 1_000;
const DAYS: u64 = 86_400 * SECONDS;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

pub const KEYS: &[Key] = &[
    key("cluster", Kind::Name, Some("DefaultCluster")),
    key("data", Kind::Text, Some("./stormglass-data")),
    key("log", Kind::OneOf(&["error", "warn", "info", "debug"]), Some("warn")),
    key("insecure_plaintext", Kind::Switch, Some("false")),
    key("metrics", Kind::Address, None),
    // A node that is all there is: broker and name server on one port.
    key("listen", Kind::Address, Some("127.0.0.1:9876")),
    key("advertise", Kind::Address, None),
    // A node of a cluster.
    key("name_servers", Kind::Addresses, None),
    key("secret", Kind::Secret, None),
    key("secret_file", Kind::Text, None),
    key("name_server.listen", Kind::Address, None),
    key("replica.N.set", Kind::Name, None),
    key("replica.N.id", Kind::Number(1, 1 << 32), None),
    key("replica.N.listen", Kind::Address, None),
    key("replica.N.advertise", Kind::Address, None),
    key("replica.N.peer_listen", Kind::Address, None),
    key("replica.N.data", Kind::Text, None),
    key("replica.N.peers.N", Kind::Address, None),
    // The same on all replicas of a set.
    key("broker.flush", Kind::OneOf(&["sync", "async"]), Some("sync")),
    key("broker.flush_interval", Kind::Time(1, 60 * SECONDS), Some("500ms")),
    key("broker.election_timeout", Kind::Time(50, 60 * SECONDS), Some("1s")),
    key("broker.auto_create_topics", Kind::Switch, Some("true")),
    key("broker.default_queues", Kind::Number(1, 4096), Some("4")),
    key("broker.segment", Kind::Pages(64 * KIB, 2048 * MIB), Some("1GiB")),
    key("broker.snapshot_every", Kind::Size(64 * KIB, 1 << 40), Some("64MiB")),
    key("broker.lock_lease", Kind::Time(SECONDS, DAYS), Some("60s")),
    key("broker.check_after", Kind::Time(1, DAYS), Some("6s")),
    key("broker.check_every", Kind::Time(1, DAYS), Some("30s")),
    key("broker.check_longest", Kind::Time(1, 30 * DAYS), Some("16m")),
    key("broker.checks_at_most", Kind::Number(1, 255), Some("15")),
    key("broker.retain", Kind::Size(64 * KIB, 1 << 50), None),
    key("broker.retain_for", Kind::Time(SECONDS, 36_500 * DAYS), None),
    key("broker.retain_at_most", Kind::Number(1, 1000), Some("2")),
    key("broker.retain_or_refuse", Kind::Switch, Some("false")),
];

pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| is_instance(key.name.split('.'), name.split('.')))
}

fn is_instance<'a>(
    pattern: impl Iterator<Item = &'a str>,
    mut steps: impl Iterator<Item = &'a str>,
) -> bool {
    let mut pattern = pattern;
    let all = pattern.all(|expected| {
        steps.next().is_some_and(|step| step == expected || expected == "N" && is_number(step))
    });
    all && steps.next().is_none()
}

fn is_number(step: &str) -> bool {
    step.parse::<u64>().is_ok_and(|number| number > 0 && number.to_string() == step)
}

/// The key that `STORMGLASS_BROKER_FLUSH` or `STORMGLASS_REPLICA_1_LISTEN`
/// sets, without `STORMGLASS_`.
pub fn of_variable(rest: &str) -> Option<String> {
    let words: Vec<String> = rest.split('_').map(str::to_lowercase).collect();
    KEYS.iter().find_map(|key| {
        let pattern = key.name.split(['.', '_']);
        if !is_instance(pattern, words.iter().map(String::as_str)) {
            return None;
        }
        let mut numbers = words.iter().filter(|word| is_number(word));
        let steps = key.name.split('.').map(|step| match step {
            "N" => numbers.next().map_or("", String::as_str),
            step => step,
        });
        Some(steps.collect::<Vec<_>>().join("."))
    })
}

/// What to say of a key that there is not.
pub fn unknown(name: &str) -> String {
    let (table, _) = name.rsplit_once('.').unwrap_or_default();
    let siblings = |table: &str| {
        let below = KEYS.iter().filter_map(|key| match key.name.rsplit_once('.') {
            Some((within, last)) => {
                is_instance(within.split('.'), table.split('.')).then_some(last)
            }
            None => table.is_empty().then_some(key.name),
        });
        below.collect::<Vec<_>>().join(", ")
    };
    match (table, siblings(table)) {
        ("replica", _) => {
            "replicas are an array of tables, each of which begins with [[replica]]".to_owned()
        }
        ("", keys) => {
            format!("no such key; allowed: {keys}, [name_server], [[replica]], [broker]")
        }
        (_, keys) if keys.is_empty() => {
            "no such table; allowed: [name_server], [[replica]], [replica.peers], [broker]"
                .to_owned()
        }
        (_, keys) => format!("no such key; allowed here: {keys}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_sets_the_key_of_its_name() {
        let names = [
            ("DATA", Some("data")),
            ("INSECURE_PLAINTEXT", Some("insecure_plaintext")),
            ("BROKER_FLUSH_INTERVAL", Some("broker.flush_interval")),
            ("REPLICA_2_PEER_LISTEN", Some("replica.2.peer_listen")),
            ("REPLICA_1_PEERS_3", Some("replica.1.peers.3")),
            ("NAME_SERVER_LISTEN", Some("name_server.listen")),
            ("NAME_SERVERS", Some("name_servers")),
            ("REPLICA_X_LISTEN", None),
            ("REPLICA_0_LISTEN", None),
            ("FLUSH", None),
        ];
        for (variable, key) in names {
            assert_eq!(of_variable(variable).as_deref(), key, "{variable}");
        }
    }

    #[test]
    fn every_default_is_allowed() {
        for key in KEYS {
            let default = key.default.map(|text| key.kind.check(text));
            assert!(!matches!(default, Some(Err(_))), "{}", key.name);
        }
    }
}
