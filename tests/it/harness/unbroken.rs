//! Requests without end, a connection for each, and none of them may fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::get;

/// Asks until it is stopped.
pub struct Unbroken {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicUsize>,
    askers: Vec<JoinHandle<usize>>,
}

impl Unbroken {
    /// Begins to ask on a port; a good answer has `word` in it.
    pub fn on(port: u16, word: &'static str) -> Self {
        let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let ask = || {
            let (stop, failed) = (stop.clone(), failed.clone());
            std::thread::spawn(move || {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    sent += 1;
                    let answered = get(port, "/").is_some_and(|answer| answer.contains(word));
                    failed.fetch_add(usize::from(!answered), Ordering::Relaxed);
                }
                sent
            })
        };
        let askers = (0..3).map(|_| ask()).collect();
        Self { stop, failed, askers }
    }

    /// Ends it: some must have been asked, and all answered.
    pub fn assert_none_failed(self) {
        self.stop.store(true, Ordering::Relaxed);
        let sent: usize = self.askers.into_iter().map(|asker| asker.join().unwrap()).sum();
        let failed = self.failed.load(Ordering::Relaxed);
        assert!(failed == 0 && sent > 0, "{failed} of {sent} requests failed");
    }
}
