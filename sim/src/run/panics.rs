//! Panics of a run: a verdict about that run, told with what failed first.

use std::{
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind},
    sync::Once,
};

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static FIRST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f` and says what panicked first on this thread, and where. What a
/// simulator makes of a task's panic (turmoil's tokio: another panic) hides it.
pub fn first_panic(f: impl FnOnce()) -> Option<String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !WATCHED.get() {
                return usual(info);
            }
            FIRST.with_borrow_mut(|first| {
                first.get_or_insert_with(|| tell(info));
            });
        }));
    });
    WATCHED.set(true);
    let ended = catch_unwind(AssertUnwindSafe(f));
    WATCHED.set(false);
    let first = FIRST.take();
    first.or_else(|| ended.err().map(|_| "a panic that nobody saw".to_owned()))
}

fn tell(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    match info.location() {
        Some(place) => format!("{text}, at {}:{}", in_the_tree(place.file()), place.line()),
        None => text.to_owned(),
    }
}

/// A record holds no path of this machine: of a dependency's file, the end.
fn in_the_tree(file: &str) -> &str {
    match file.rmatch_indices('/').nth(3) {
        Some((cut, _)) => &file[cut + 1..],
        None => file,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_panic_is_told_with_its_place() {
        let told = first_panic(|| {
            let _ = catch_unwind(|| panic!("slot {} is taken", 7));
            panic!("a task panicked");
        });
        let told = told.expect("it panicked");
        assert!(told.starts_with("slot 7 is taken, at sim/src/run/panics.rs:"), "{told}");
        assert_eq!(first_panic(|| ()), None);
    }

    #[test]
    fn a_place_outside_the_tree_is_cut_to_its_end() {
        assert_eq!(in_the_tree("core/src/broker/mod.rs"), "core/src/broker/mod.rs");
        assert_eq!(in_the_tree("/home/a/registry/x-1.0/src/b/c.rs"), "x-1.0/src/b/c.rs");
    }
}
