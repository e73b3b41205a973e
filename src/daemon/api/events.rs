//! `/v1/events`: a stream of what happens to instances.

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};

use crate::daemon::api::encode::json_line;
use crate::ipc::message::EventView;
use crate::ipc::server::HandlerResponse;

/// How many events wait for a slow client here, before those in the broadcast channel.
const CHANNEL_CAPACITY: usize = 64;

/// Streams events until the client disconnects. A slow client receives the number of missed events.
pub fn stream_events(mut events: broadcast::Receiver<EventView>) -> HandlerResponse {
    let (sender, lines) = mpsc::channel(CHANNEL_CAPACITY);
    tokio::task::spawn_local(async move {
        loop {
            let line = tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => json_line(&event),
                    Err(RecvError::Lagged(missed)) => json_line(&serde_json::json!({ "missed": missed })),
                    Err(RecvError::Closed) => return,
                },
                () = sender.closed() => return,
            };
            if sender.send(line).await.is_err() {
                return;
            }
        }
    });
    HandlerResponse::Stream(lines)
}
