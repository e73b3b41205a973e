//! Reading the body of a request, with limits for length, time and total memory.

use std::cell::Cell;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::ipc::request::{ApiError, ErrorCode};
use crate::ipc::routes::MAX_BODY;

/// Time within which a body must be received.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of all bodies that are in memory at the same time, in bytes.
const MAX_TOTAL_BODIES: usize = 2 * MAX_BODY;

/// The memory for all bodies together: without it, many clients could use too much, each within its limit.
pub(super) struct BodyBudget {
    available: Cell<usize>,
}

impl Default for BodyBudget {
    fn default() -> Self {
        Self { available: Cell::new(MAX_TOTAL_BODIES) }
    }
}

/// The memory of one body; returned to the budget when dropped.
pub(super) struct BodyPermit<'a> {
    budget: &'a BodyBudget,
    bytes: usize,
}

impl Drop for BodyPermit<'_> {
    fn drop(&mut self) {
        self.budget.available.set(self.budget.available.get() + self.bytes);
    }
}

impl BodyPermit<'_> {
    fn reserve(&mut self, bytes: usize) -> Result<(), ApiError> {
        let left = self.budget.available.get().checked_sub(bytes).ok_or_else(|| {
            ApiError::new(ErrorCode::Unavailable, "too many large requests").hint("try again later")
        })?;
        self.budget.available.set(left);
        self.bytes += bytes;
        Ok(())
    }
}

/// Reads a complete body. The permit must be kept as long as the body.
///
/// # Errors
/// The body is too large, too slow or malformed, or the budget is used up.
pub(super) async fn read_body(
    body: Incoming,
    budget: &BodyBudget,
) -> Result<(Vec<u8>, BodyPermit<'_>), ApiError> {
    // A Content-Length is checked before hyper sends `100 Continue`, after which the client sends the body.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(body_too_large());
    }
    let slow = |_| {
        let text = format!("request body not received within {} s", BODY_TIMEOUT.as_secs());
        Err(ApiError::new(ErrorCode::Invalid, text))
    };
    tokio::time::timeout(BODY_TIMEOUT, collect(body, budget)).await.unwrap_or_else(slow)
}

async fn collect(mut body: Incoming, budget: &BodyBudget) -> Result<(Vec<u8>, BodyPermit<'_>), ApiError> {
    let mut permit = BodyPermit { budget, bytes: 0 };
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::new(ErrorCode::Invalid, format!("cannot read the request body: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue }; // trailers are ignored
        if read.len() + data.len() > MAX_BODY {
            return Err(body_too_large());
        }
        permit.reserve(data.len())?;
        read.extend_from_slice(&data);
    }
    Ok((read, permit))
}

fn body_too_large() -> ApiError {
    ApiError::new(ErrorCode::TooLarge, format!("request body exceeds {} MiB", MAX_BODY >> 20))
        .hint("split the request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_shared_and_returned() {
        let budget = BodyBudget::default();
        let mut first = BodyPermit { budget: &budget, bytes: 0 };
        let mut second = BodyPermit { budget: &budget, bytes: 0 };
        first.reserve(MAX_TOTAL_BODIES - 10).unwrap();
        assert_eq!(second.reserve(11).unwrap_err().code, ErrorCode::Unavailable);
        second.reserve(10).unwrap();
        drop(first);
        second.reserve(MAX_TOTAL_BODIES - 10).unwrap();
        drop(second);
        assert_eq!(budget.available.get(), MAX_TOTAL_BODIES);
    }
}
