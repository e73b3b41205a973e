//! The API: requests, responses, the table of routes, and both ends of the connection.
//!
//! Programs that use this crate begin with [`client::Client`]: `Client::connect`, then one method per route.
//! `examples/client.rs` shows it; `examples/client.mjs` and `examples/client.py` do the same over HTTP.
//!
//! `request` and `response` hold the bodies, `routes` maps requests to HTTP and back, and everything else
//! follows from that table: the methods of the client, the decoding in the server, and the OpenAPI document.
#![warn(missing_docs)]

pub mod app;
pub mod client;
pub mod log_stream;
pub(crate) mod openapi;
mod query;
pub mod request;
pub mod response;
pub mod routes;
pub(crate) mod server;
pub mod start_daemon;

/// The header with the version of the daemon.
pub const VERSION_HEADER: &str = "x-rsm-version";

/// The header with the idempotency key of a request that changes something. A daemon executes it once, also
/// when the client sends it again to the next daemon.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";

/// Maximum length of an idempotency key in bytes.
pub const MAX_KEY: usize = 64;

/// All types of requests and responses; the same as the modules `request` and `response`.
pub mod message {
    pub use super::request::*;
    pub use super::response::*;
    pub use super::routes::Request;
}
