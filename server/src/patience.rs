//! How long a connection may keep the server waiting: for the head of a request, between requests, and for taking what is
//! written.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderValue;
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

/// What is known of one connection.
#[derive(Debug)]
struct State {
    phase: Phase,
    /// Nothing of what is written is taken; some must be by then.
    unread: Option<Instant>,
    /// The id of the request that is being answered.
    request: Option<HeaderValue>,
}

/// Why a connection has kept the server waiting for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// It asked nothing, or did not come to an end with asking.
    Silent,
    /// It does not read what it is answered.
    Unread,
}

impl State {
    /// What the connection is late with next, and when.
    fn due(&self) -> Option<(Instant, Late)> {
        let silent = match self.phase {
            Phase::Idle(due) | Phase::Head(due) => Some((due, Late::Silent)),
            Phase::Busy => None,
        };
        let unread = self.unread.map(|due| (due, Late::Unread));
        silent.into_iter().chain(unread).min_by_key(|(due, _)| *due)
    }
}

/// The state of one connection. Its parts hold clones.
#[derive(Debug, Clone)]
pub struct Clock {
    limits: Limits,
    state: watch::Sender<State>,
}

impl Clock {
    /// A clock for a new connection, which must bring a head at once.
    pub fn new(limits: Limits) -> Self {
        let phase = Phase::Head(Instant::now() + limits.header);
        Self { limits, state: watch::Sender::new(State { phase, unread: None, request: None }) }
    }

    /// Something was received.
    fn received(&self) {
        self.state.send_if_modified(|state| {
            let begins = matches!(state.phase, Phase::Idle(_));
            if begins {
                state.phase = Phase::Head(Instant::now() + self.limits.header);
            }
            begins
        });
    }

    /// Whether the client took some of what was written to it.
    fn written(&self, taken: bool) {
        self.state.send_if_modified(|state| {
            let changes = state.unread.is_some() == taken;
            if changes {
                state.unread = (!taken).then(|| Instant::now() + self.limits.write);
            }
            changes
        });
    }

    /// A request is there.
    pub fn busy(&self) {
        self.state.send_modify(|state| state.phase = Phase::Busy);
    }

    /// Its answer, which bears this id, begins.
    pub fn answers(&self, request: Option<&HeaderValue>) {
        self.state.send_if_modified(|state| {
            state.request = request.cloned();
            false
        });
    }

    /// It is answered.
    fn idle(&self) {
        let due = Instant::now() + self.limits.idle;
        self.state.send_modify(|state| state.phase = Phase::Idle(due));
    }

    /// The id of the request that was answered last.
    pub fn request(&self) -> String {
        let state = self.state.borrow();
        let id = state.request.as_ref().and_then(|id| id.to_str().ok());
        id.unwrap_or_default().to_owned()
    }

    /// Ready when the connection has kept the server waiting for too long.
    pub async fn late(&self) -> Late {
        let mut state = self.state.subscribe();
        loop {
            let due = state.borrow_and_update().due();
            let late = async {
                match due {
                    Some((due, late)) => {
                        sleep_until(due).await;
                        late
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // There is a sender as long as `self` lives.
                _ = state.changed() => {}
                late = late => return late,
            }
        }
    }
}

/// A stream that tells a clock of what it receives, and of what is taken of what it sends.
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

impl<S> Heard<S> {
    /// Tells the clock how writing went.
    fn told<T>(&self, wrote: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        self.clock.written(wrote.is_ready());
        wrote
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.told(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.told(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.told(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.told(shut)
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
        let [header, idle, write] = [40, 120, 60].map(Duration::from_millis);
        Limits { header, idle, write, ..Limits::default() }
    }

    /// Milliseconds until the connection is late; `None` when it still may wait after a second.
    async fn late(clock: &Clock) -> Option<u128> {
        let begun = Instant::now();
        let late = tokio::time::timeout(Duration::from_secs(1), clock.late()).await;
        late.ok().map(|_| begun.elapsed().as_millis())
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

    #[test]
    fn what_is_written_must_be_taken() {
        run(async {
            let clock = Clock::new(limits());
            clock.busy();
            clock.written(false);
            tokio::time::sleep(Duration::from_millis(30)).await;
            // Another attempt that fails gives no more time; one that succeeds ends the wait.
            clock.written(false);
            let begun = Instant::now();
            assert_eq!(clock.late().await, Late::Unread);
            assert!(begun.elapsed() < Duration::from_millis(55), "{:?}", begun.elapsed());
            clock.written(true);
            assert_eq!(late(&clock).await, None);
        });
    }
}
