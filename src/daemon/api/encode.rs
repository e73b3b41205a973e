//! Encoding of responses: one JSON document, or a stream of JSON lines.

use bytes::Bytes;
use serde::Serialize;

use crate::ipc::message::{ApiError, ErrorCode};
use crate::ipc::server::HandlerResponse;

pub fn json_response(value: &impl Serialize) -> Result<HandlerResponse, ApiError> {
    serde_json::to_vec(value)
        .map(HandlerResponse::Json)
        .map_err(|error| ApiError::new(ErrorCode::Internal, format!("cannot encode the response: {error}")))
}

pub fn json_line(value: &impl Serialize) -> Bytes {
    let mut bytes = Vec::new();
    write_line(value, &mut bytes);
    bytes.into()
}

/// Appends a value and a newline.
pub fn write_line(value: &impl Serialize, bytes: &mut Vec<u8>) {
    // Cannot fail: the values are text and numbers, the destination is memory.
    let _ = serde_json::to_writer(&mut *bytes, value);
    bytes.push(b'\n');
}
