//! Ctrl-C: the first one ends a suite early with the table of what is done, the
//! second ends it at once.

use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// One that never comes by itself.
    pub fn none() -> Interrupt {
        Interrupt(Arc::default())
    }

    /// Listens from now on. Without a listener Ctrl-C ends the process, which
    /// is no worse than before.
    pub fn listen() -> Interrupt {
        let interrupt = Interrupt::none();
        let listener = interrupt.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        if let Ok(runtime) = runtime {
            thread::spawn(move || {
                runtime.block_on(async {
                    while tokio::signal::ctrl_c().await.is_ok() {
                        if listener.came() {
                            process::exit(130);
                        }
                        listener.raise();
                        eprintln!(
                            "\nstopping after the runs under way; Ctrl-C again stops at once"
                        );
                    }
                });
            });
        }
        interrupt
    }

    pub fn raise(&self) {
        self.0.store(true, Relaxed);
    }

    pub fn came(&self) -> bool {
        self.0.load(Relaxed)
    }
}
