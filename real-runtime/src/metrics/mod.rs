//! What a process tells those who watch over it, by HTTP: `/metrics` for
//! Prometheus, `/livez`, `/readyz`. All of it happens on a thread of its own; the
//! brokers are only asked.

mod http;
mod numbers;
mod question;
mod standing;
#[cfg(test)]
mod tests;
mod text;

pub use http::Endpoint;
pub use question::{Asked, about};
pub use text::Origin;
