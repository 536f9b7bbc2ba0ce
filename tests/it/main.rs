// One binary, so one link.
mod broker;
mod conformance;
mod crash_points;
mod oracles_bite;
mod transcripts;
