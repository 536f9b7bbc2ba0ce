// One binary, so one link.
mod broker;
mod check_back_lab;
mod clients;
mod commands;
mod conformance;
mod crash_points;
mod oracles_bite;
mod orderly;
mod real_smoke;
mod replica_sets;
mod replica_sets_on_tokio;
mod retention;
mod retries;
mod scenarios;
mod sequences;
mod transactions;
mod transcripts;
