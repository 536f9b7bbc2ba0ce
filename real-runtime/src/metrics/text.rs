//! Prometheus' text format, version 0.0.4. No library writes it: the official
//! one does not escape the values of labels, and names of producer groups are
//! whatever their clients say.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use stormglass_core::ids::Name;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Values of one metric of one node that are told. Names of topics and groups are
/// chosen by clients, and each costs whoever stores the numbers.
const AT_MOST: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

/// One metric of one node: its values, which differ in their labels.
#[derive(Clone, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    /// The labels of each value, besides those of the node.
    pub labels: &'static [&'static str],
    pub values: Greatest,
}

/// Values, or the greatest of them if there are too many.
#[derive(Clone, Debug, Default)]
pub struct Greatest {
    kept: Vec<(Labels, f64)>,
    offered: usize,
    /// What is not greater is not kept.
    bar: Option<f64>,
}

impl Greatest {
    /// Asks for the labels only of what may be told.
    pub fn offer(&mut self, value: f64, labels: impl FnOnce() -> Labels) {
        self.offered += 1;
        if self.bar.is_some_and(|bar| value <= bar) {
            return;
        }
        self.kept.push((labels(), value));
        if self.kept.len() == 2 * AT_MOST {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.kept.len() > AT_MOST {
            let least = self.kept.select_nth_unstable_by(AT_MOST - 1, |a, b| b.1.total_cmp(&a.1)).1;
            self.bar = Some(least.1);
            self.kept.truncate(AT_MOST);
        }
    }

    /// In the order of their labels.
    fn told(mut self) -> Vec<(Labels, f64)> {
        self.cut();
        self.kept.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.kept
    }

    fn left_out(&self) -> usize {
        self.offered.saturating_sub(AT_MOST)
    }
}

impl FromIterator<(Labels, f64)> for Greatest {
    fn from_iter<I: IntoIterator<Item = (Labels, f64)>>(values: I) -> Greatest {
        let mut greatest = Greatest::default();
        values.into_iter().for_each(|(labels, value)| greatest.offer(value, || labels));
        greatest
    }
}

/// What a value's labels say, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Labels {
    None,
    Word(&'static str),
    Number(u64),
    Name(Name),
    Names(Name, Name),
    Queue(Name, Name, u32),
}

/// Where numbers come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    pub cluster: String,
    pub node_type: &'static str,
    pub node_id: String,
}

/// All metrics of all nodes. Lines of one metric come together, by its name.
pub fn render(nodes: Vec<(&Origin, Vec<Metric>)>) -> String {
    let mut by_name: BTreeMap<&'static str, Vec<(&Origin, Metric)>> = BTreeMap::new();
    for (origin, metrics) in nodes {
        let left_out = left_out(&metrics);
        for metric in metrics.into_iter().chain([left_out]) {
            by_name.entry(metric.name).or_default().push((origin, metric));
        }
    }
    let mut text = String::new();
    for (name, metrics) in by_name {
        let (_, first) = &metrics[0];
        if metrics.iter().any(|(_, metric)| !metric.values.kept.is_empty()) {
            let kind = if first.kind == Kind::Counter { "counter" } else { "gauge" };
            write_line(&mut text, format_args!("# HELP {name} {}", first.help));
            write_line(&mut text, format_args!("# TYPE {name} {kind}"));
        }
        for (origin, metric) in metrics {
            for (labels, value) in &metric.values.told() {
                let labels = WithOrigin { origin, names: metric.labels, labels };
                write_line(&mut text, format_args!("{name}{{{labels}}} {value}"));
            }
        }
    }
    text
}

fn write_line(text: &mut String, line: fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes all that is written");
}

fn left_out(metrics: &[Metric]) -> Metric {
    let too_long = metrics.iter().filter(|metric| metric.values.left_out() > 0);
    Metric {
        name: "stormglass_metrics_left_out",
        kind: Kind::Gauge,
        help: "The smallest values of a metric, which has too many to be told.",
        labels: &["metric"],
        values: too_long
            .map(|metric| (Labels::Word(metric.name), metric.values.left_out() as f64))
            .collect(),
    }
}

struct WithOrigin<'a> {
    origin: &'a Origin,
    names: &'static [&'static str],
    labels: &'a Labels,
}

impl fmt::Display for WithOrigin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { cluster, node_type, node_id } = self.origin;
        let (cluster, node_id) = (Escaped(cluster), Escaped(node_id));
        write!(f, r#"cluster="{cluster}",node_type="{node_type}",node_id="{node_id}""#)?;
        let mut names = self.names.iter();
        let mut label = |value: &dyn fmt::Display| match names.next() {
            Some(name) => write!(f, r#",{name}="{value}""#),
            None => Ok(()),
        };
        match self.labels {
            Labels::None => Ok(()),
            Labels::Word(word) => label(&Escaped(word)),
            Labels::Number(number) => label(number),
            Labels::Name(name) => label(&Escaped(name)),
            Labels::Names(one, two) => {
                label(&Escaped(one))?;
                label(&Escaped(two))
            }
            Labels::Queue(group, topic, queue) => {
                label(&Escaped(group))?;
                label(&Escaped(topic))?;
                label(queue)
            }
        }
    }
}

struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['\\', '"', '\n']) {
            f.write_str(&rest[..at])?;
            f.write_str(match rest.as_bytes()[at] {
                b'\\' => r"\\",
                b'"' => r#"\""#,
                _ => r"\n",
            })?;
            rest = &rest[at + 1..];
        }
        f.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(node_id: &str) -> Origin {
        Origin { cluster: "shop".into(), node_type: "broker", node_id: node_id.into() }
    }

    fn lag(values: Vec<(Labels, f64)>) -> Metric {
        let labels = &["consumer_group", "topic"];
        Metric {
            name: "lag",
            kind: Kind::Gauge,
            help: "How far behind.",
            labels,
            values: values.into_iter().collect(),
        }
    }

    #[test]
    fn lines_of_a_metric_come_together_and_names_cannot_break_out() {
        let (a, b) = (origin("set-1"), origin("set-2"));
        let hostile = Labels::Names("\"} 1\nup".into(), r"back\slash".into());
        let plain = Labels::Names("billing".into(), "orders".into());
        let up = Metric {
            name: "up",
            kind: Kind::Counter,
            help: "Up.",
            labels: &[],
            values: Greatest::default(),
        };
        let counted = Metric { values: [(Labels::None, 1e15)].into_iter().collect(), ..up.clone() };
        let text = render(vec![
            (&a, vec![lag(vec![(plain, 3.0), (hostile, 0.5)]), up]),
            (&b, vec![lag(vec![(Labels::Names("audit".into(), "orders".into()), 0.0)]), counted]),
        ]);
        insta::assert_snapshot!(text, @r#"
        # HELP lag How far behind.
        # TYPE lag gauge
        lag{cluster="shop",node_type="broker",node_id="set-1",consumer_group="\"} 1\nup",topic="back\\slash"} 0.5
        lag{cluster="shop",node_type="broker",node_id="set-1",consumer_group="billing",topic="orders"} 3
        lag{cluster="shop",node_type="broker",node_id="set-2",consumer_group="audit",topic="orders"} 0
        # HELP up Up.
        # TYPE up counter
        up{cluster="shop",node_type="broker",node_id="set-2"} 1000000000000000
        "#);
    }

    #[test]
    fn of_too_many_values_the_greatest_are_told_and_the_others_counted() {
        let of_group = |number: usize| Labels::Names(format!("g{number}").into(), "t".into());
        let values = (0..3 * AT_MOST).map(|number| (of_group(number), number as f64)).collect();
        let text = render(vec![(&origin("a"), vec![lag(values)])]);
        let told = |group: &str| text.contains(&format!("consumer_group=\"{group}\""));
        assert_eq!(text.lines().filter(|line| line.starts_with("lag{")).count(), AT_MOST);
        let (least, next) = (2 * AT_MOST, 2 * AT_MOST - 1);
        assert!(told(&format!("g{least}")) && !told(&format!("g{next}")));
        let beyond = text.lines().find(|line| line.starts_with("stormglass_metrics_left_out{"));
        assert!(beyond.is_some_and(|line| line.ends_with("metric=\"lag\"} 20000")), "{beyond:?}");
    }
}
