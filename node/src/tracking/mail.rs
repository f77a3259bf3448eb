//! What waits to be told to one reader, and who is woken for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_core::ids::Position;
use cairn_core::tracking::{Letters, LettersBounds, Taken};
use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// What waits to be told to one reader.
#[derive(Debug, Default)]
pub struct Mail {
    has_news: AtomicBool,
    letters: Mutex<Letters>,
    waker: Arc<AtomicWaker>,
}

/// Somebody else's mail, to be passed on.
pub type Post = Taken;

impl Mail {
    /// Mail whose owner is woken by that waker.
    #[must_use]
    pub fn new(waker: Arc<AtomicWaker>) -> Self {
        Self {
            waker,
            ..Self::default()
        }
    }

    fn put(&self, put: impl FnOnce(&mut Letters)) {
        put(&mut self.letters.lock());
        if !self.has_news.swap(true, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// A key has changed.
    pub fn changed(&self, key: &Bytes, version: Option<Position>) {
        self.put(|letters| letters.changed(key, version, LettersBounds::default()));
    }

    /// Everything may have changed.
    pub fn all(&self) {
        self.put(Letters::all);
    }

    /// See [`Letters::vouch`].
    pub fn vouch(&self, number: u64) {
        self.put(|letters| letters.vouch(number));
    }

    /// Takes over what another was told.
    pub fn pass_on(&self, post: &Post) {
        self.put(|letters| {
            if post.all {
                letters.all();
            }
            for (key, version) in &post.keys {
                letters.changed(key, *version, LettersBounds::default());
            }
        });
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_news.load(Ordering::SeqCst)
    }

    /// Takes what waits.
    #[must_use]
    pub fn take(&self) -> Post {
        // First, so that what is put meanwhile wakes again.
        self.has_news.store(false, Ordering::SeqCst);
        self.letters.lock().take()
    }

    /// Waits for something to be told, and takes it.
    pub fn poll_take(&self, context: &mut Context<'_>) -> Poll<Post> {
        self.waker.register(context.waker());
        if self.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(self.take())
    }
}
