//! How long a connection may keep the server waiting: for the head of a request, and between requests.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::config::Limits;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was asked; it ends then.
    Idle(Instant),
    /// The head of a request is on its way, and must be there by then.
    Head(Instant),
    /// A request is being answered.
    Busy,
}

/// The phase of one connection. Its parts hold clones.
#[derive(Debug, Clone)]
pub struct Clock {
    limits: Limits,
    phase: watch::Sender<Phase>,
}

impl Clock {
    /// A clock for a new connection, which must bring a head at once.
    pub fn new(limits: Limits) -> Self {
        Self { limits, phase: watch::Sender::new(Phase::Head(Instant::now() + limits.header)) }
    }

    /// Something was received.
    fn received(&self) {
        self.phase.send_if_modified(|phase| {
            let begins = matches!(phase, Phase::Idle(_));
            if begins {
                *phase = Phase::Head(Instant::now() + self.limits.header);
            }
            begins
        });
    }

    /// A request is there.
    pub fn busy(&self) {
        self.phase.send_replace(Phase::Busy);
    }

    /// It is answered.
    fn idle(&self) {
        self.phase.send_replace(Phase::Idle(Instant::now() + self.limits.idle));
    }

    /// Ready when the connection has kept the server waiting for too long.
    pub async fn late(&self) {
        let mut phase = self.phase.subscribe();
        loop {
            let due = match *phase.borrow_and_update() {
                Phase::Idle(due) | Phase::Head(due) => Some(due),
                Phase::Busy => None,
            };
            let late = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // There is a sender as long as `self` lives.
                _ = phase.changed() => {}
                () = late => return,
            }
        }
    }
}

/// A stream that tells a clock of what it receives.
#[derive(Debug)]
pub struct Heard<S> {
    pub stream: S,
    pub clock: Clock,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.clock.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of an answer, behind which its connection is idle.
pub struct Answer {
    pub body: Body,
    pub clock: Clock,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.clock.idle();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits() -> Limits {
        let [header, idle] = [40, 120].map(Duration::from_millis);
        Limits { header, idle, ..Limits::default() }
    }

    /// Milliseconds until the connection is late; `None` when it still may wait after a second.
    async fn late(clock: &Clock) -> Option<u128> {
        let begun = Instant::now();
        let late = tokio::time::timeout(Duration::from_secs(1), clock.late()).await;
        late.ok().map(|()| begun.elapsed().as_millis())
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(test);
    }

    #[test]
    fn heads_have_their_time_answers_any_and_pauses_theirs() {
        run(async {
            let clock = Clock::new(limits());
            // What comes before the head is whole does not lengthen its time.
            clock.received();
            assert!(late(&clock).await.is_some_and(|ms| (39..120).contains(&ms)));
            clock.busy();
            clock.received();
            assert_eq!(late(&clock).await, None);
            drop(Answer { body: Body::empty(), clock: clock.clone() });
            assert!(late(&clock).await.is_some_and(|ms| ms >= 119));
            drop(Answer { body: Body::empty(), clock: clock.clone() });
            clock.received();
            assert!(late(&clock).await.is_some_and(|ms| (39..119).contains(&ms)));
        });
    }

    #[test]
    fn a_request_in_the_last_moment_is_answered() {
        run(async {
            let clock = Clock::new(limits());
            let other = clock.clone();
            let asks = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                other.busy();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                late = late(&clock) => assert_eq!(late, None),
                () = asks => {}
            }
        });
    }
}
