//! Bodies of requests and responses that are JSON or records.
