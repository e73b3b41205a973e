//! The API: what is said, how it is said over HTTP, and both ends of it.
pub mod message;
