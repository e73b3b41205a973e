//! Reading a request's body, within limits of length, time and memory.

use std::cell::Cell;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::ipc::request::{ApiError, ErrorCode};
use crate::ipc::routes::MAX_BODY;

/// A body must have arrived within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// All bodies that are being read or answered hold no more bytes than this.
const MAX_TOTAL_BODIES: usize = 2 * MAX_BODY;

/// The memory that all bodies may take together: many clients, each within its limit, would else
/// be too much.
pub(super) struct BodyBudget {
    available: Cell<usize>,
}

impl Default for BodyBudget {
    fn default() -> Self {
        Self { available: Cell::new(MAX_TOTAL_BODIES) }
    }
}

/// A body's share of the room, given back when dropped.
pub(super) struct BodyPermit<'a> {
    room: &'a BodyBudget,
    bytes: usize,
}

impl Drop for BodyPermit<'_> {
    fn drop(&mut self) {
        self.room.available.set(self.room.available.get() + self.bytes);
    }
}

impl BodyPermit<'_> {
    fn reserve(&mut self, bytes: usize) -> Result<(), ApiError> {
        let left = self.room.available.get().checked_sub(bytes).ok_or_else(|| {
            ApiError::new(ErrorCode::Unavailable, "too many large requests").hint("try again later")
        })?;
        self.room.available.set(left);
        self.bytes += bytes;
        Ok(())
    }
}

/// Reads a whole body. The share of the room is to be held as long as the body.
///
/// # Errors
/// It is too long, too slow or malformed, or there is no room.
pub(super) async fn read_body(
    body: Incoming,
    room: &BodyBudget,
) -> Result<(Vec<u8>, BodyPermit<'_>), ApiError> {
    // A length given beforehand is refused before `100 Continue` invites the client to send.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(body_too_large());
    }
    let slow = |_| {
        let text = format!("request body not received within {} s", BODY_TIMEOUT.as_secs());
        Err(ApiError::new(ErrorCode::Invalid, text))
    };
    tokio::time::timeout(BODY_TIMEOUT, collect(body, room)).await.unwrap_or_else(slow)
}

async fn collect(mut body: Incoming, room: &BodyBudget) -> Result<(Vec<u8>, BodyPermit<'_>), ApiError> {
    let mut taken = BodyPermit { room, bytes: 0 };
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::new(
                ErrorCode::Invalid,
                format!(
                    "cannot read the request body: \
                {error}"
                ),
            )
        })?;
        let Ok(data) = frame.into_data() else { continue }; // trailers say nothing to us
        if read.len() + data.len() > MAX_BODY {
            return Err(body_too_large());
        }
        taken.reserve(data.len())?;
        read.extend_from_slice(&data);
    }
    Ok((read, taken))
}

fn body_too_large() -> ApiError {
    ApiError::new(ErrorCode::TooLarge, format!("request body exceeds {} MiB", MAX_BODY >> 20))
        .hint("split the request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_shared_and_given_back() {
        let room = BodyBudget::default();
        let mut first = BodyPermit { room: &room, bytes: 0 };
        let mut second = BodyPermit { room: &room, bytes: 0 };
        first.reserve(MAX_TOTAL_BODIES - 10).unwrap();
        assert_eq!(second.reserve(11).unwrap_err().code, ErrorCode::Unavailable);
        second.reserve(10).unwrap();
        drop(first);
        second.reserve(MAX_TOTAL_BODIES - 10).unwrap();
        drop(second);
        assert_eq!(room.available.get(), MAX_TOTAL_BODIES);
    }
}
