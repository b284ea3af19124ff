//! Bodies of requests that are refused: read to their end, so that the client comes to read why.
//!
//! A client that still writes when its connection is closed sees a broken pipe instead of our answer. [`Kept`] is a body that
//! can be taken back from whoever was to read it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::StreamExt;
use http::{HeaderMap, header};
use hyper::body::{Frame, SizeHint};

/// So much is read of what nobody wants.
const MAX_BYTES: usize = 64 << 20;
/// So long.
const PATIENCE: Duration = Duration::from_secs(5);

/// A body that can be taken back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    body: Option<Body>,
    /// Who waits for the next piece.
    waiting: Option<Waker>,
}

impl Kept {
    pub(crate) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(State { body: Some(body), waiting: None })))
    }

    /// Reads what is left, up to a bound. Whoever else reads finds the end.
    pub(crate) async fn drain(self) {
        let Some(body) = self.take() else { return };
        let all = async {
            let (mut pieces, mut read) = (body.into_data_stream(), 0);
            while let Some(Ok(piece)) = pieces.next().await {
                read += piece.len();
                if read > MAX_BYTES {
                    return;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::debug!("a client does not end what nobody wants");
        }
    }

    fn take(&self) -> Option<Body> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = state.waiting.take() {
            waiting.wake();
        }
        state.body.take()
    }

    fn with<T>(&self, ask: impl FnOnce(&mut State) -> T) -> T {
        ask(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A client that waits for our word before it sends is not to send.
pub(crate) fn waits_for_word(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl hyper::body::Body for Kept {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.with(|state| {
            let Some(body) = &mut state.body else { return Poll::Ready(None) };
            let polled = Pin::new(body).poll_frame(context);
            state.waiting = polled.is_pending().then(|| context.waker().clone());
            polled
        })
    }

    fn is_end_stream(&self) -> bool {
        self.with(|state| state.body.as_ref().is_none_or(Body::is_end_stream))
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|state| state.body.as_ref().map(Body::size_hint).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, Bytes};
    use tokio::sync::mpsc;

    use super::Kept;

    fn pieces(mut receiver: mpsc::Receiver<Bytes>) -> Body {
        let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        Body::from_stream(futures_util::StreamExt::map(stream, Ok::<_, std::convert::Infallible>))
    }

    #[tokio::test]
    async fn what_is_refused_is_read_to_its_end() {
        let (sender, receiver) = mpsc::channel(1);
        let kept = Kept::new(pieces(receiver));
        drop(Body::new(kept.clone()));
        let drained = tokio::spawn(kept.drain());
        for _ in 0..100 {
            sender.send(Bytes::from_static(b"piece")).await.unwrap();
        }
        drop(sender);
        drained.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_whose_body_is_taken_back_finds_the_end() {
        let (sender, receiver) = mpsc::channel(1);
        let kept = Kept::new(pieces(receiver));
        let reader = tokio::spawn(axum::body::to_bytes(Body::new(kept.clone()), 64));
        sender.send(Bytes::from_static(b"first")).await.unwrap();
        while sender.capacity() == 0 {
            tokio::task::yield_now().await;
        }
        let drained = tokio::spawn(kept.drain());
        assert_eq!(reader.await.unwrap().unwrap(), "first");
        drop(sender);
        drained.await.unwrap();
    }
}
