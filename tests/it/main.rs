// One binary, so one link.
mod conformance;
