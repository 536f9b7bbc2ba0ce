//! How a run asks a server to stop in order, as SIGTERM does.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use tokio::sync::Notify;

/// One of a server, for all its lives. Clones ring the same.
#[derive(Clone, Default)]
pub struct Bell {
    rung: Rc<Cell<bool>>,
    heard_by: Rc<RefCell<Rc<Notify>>>,
}

impl Bell {
    pub fn ring(&self) {
        self.rung.set(true);
        self.heard_by.borrow().notify_one();
    }

    /// Whether the newest life was asked to stop.
    pub fn has_rung(&self) -> bool {
        self.rung.get()
    }

    /// Another life begins, which nobody has asked to stop; it waits for this.
    pub fn for_a_new_life(&self) -> Rc<Notify> {
        self.rung.set(false);
        self.heard_by.take();
        self.heard_by.borrow().clone()
    }
}
