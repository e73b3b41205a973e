//! The API: what is said, how it is said over HTTP, and both ends of it.
//!
//! Programs that use this crate begin with [`client::Client`]: `Client::connect`, then a method a request.
//! `examples/client.rs` shows it; `examples/client.mjs` and `examples/client.py` do the same without it.

pub mod client;
pub mod launch;
pub mod message;
pub mod openapi;
pub mod route;
pub mod server;
mod typed;
pub mod view;
