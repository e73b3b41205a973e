//! The API: what is said, how it is said over HTTP, and both ends of it.

pub mod client;
pub mod launch;
pub mod message;
pub mod openapi;
pub mod route;
pub mod server;
pub mod view;
