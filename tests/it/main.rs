// One binary, so one link.
mod conformance;
mod oracles_bite;
