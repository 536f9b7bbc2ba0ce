//! Logs of a run: each line carries virtual time and the node that wrote it,
//! never a wall clock, so that the same run writes the same lines.

use std::{
    cell::{Cell, RefCell},
    fmt::{self, Write},
};

use stormglass_core::ids::Name;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::Registry,
};

use crate::clock;

/// Lines kept at most; a run that logs more keeps its end.
const MAX_LINES: usize = 200_000;

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    /// Whose task runs.
    static HERE: RefCell<Option<Name>> = const { RefCell::new(None) };
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A task of this node is about to run.
pub fn on_node(name: &Name) {
    if ON.get() {
        HERE.set(Some(name.clone()));
    }
}

/// Runs `f` and returns what was logged on this thread meanwhile.
pub fn capture<T>(max: Level, f: impl FnOnce() -> T) -> (T, Vec<String>) {
    ON.set(true);
    HERE.set(None);
    LINES.take();
    let subscriber = Registry::default().with(Stamped { max });
    let result = tracing::subscriber::with_default(subscriber, f);
    ON.set(false);
    (result, LINES.take())
}

struct Stamped {
    max: Level,
}

impl<S: Subscriber> Layer<S> for Stamped {
    /// The simulators' own chatter stays out.
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("stormglass") && *metadata.level() <= self.max
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let now = clock::true_now_us();
        let mut line = HERE.with_borrow(|node| {
            let node = node.as_deref().unwrap_or("-");
            let level = event.metadata().level();
            format!("{:>4}.{:06} {node:<14} {level:<5}", now / 1_000_000, now % 1_000_000)
        });
        event.record(&mut Fields(&mut line));
        LINES.with_borrow_mut(|lines| {
            if lines.len() == 2 * MAX_LINES {
                lines.drain(..MAX_LINES);
            }
            lines.push(line);
        });
    }
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
