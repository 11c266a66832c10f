//! Work that goes through stages, each on a thread of its own.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::scope;

use qwen3_vl_backends::threads::on_queue;

/// Pieces that wait before a stage while it is at work.
const WAITING: usize = 1;
/// The queue of cards that what feeds the stages has, behind that of embeddings; those of the stages follow.
const FEEDING: usize = 1;

/// Sends what `feed` brings through `stages`, in order, and hands what comes out to `collect`. A stage works on one piece
/// while the stage before works on the next; a slow one makes those before it wait, so that few pieces are alive.
///
/// # Panics
/// As the first of them that does.
pub(crate) fn run<T: Send, S: FnMut(T) -> T + Send>(
    mut feed: impl FnMut() -> Option<T> + Send,
    stages: Vec<S>,
    collect: impl FnMut(T),
) {
    scope(|threads| {
        let (first, mut output) = sync_channel(WAITING);
        let feed = move || {
            while let Some(piece) = feed() {
                if first.send(piece).is_err() {
                    break;
                }
            }
        };
        let mut working = vec![threads.spawn(|| on_queue(FEEDING, feed))];
        for (index, mut stage) in stages.into_iter().enumerate() {
            let (next, receiver) = sync_channel(WAITING);
            let input: Receiver<T> = std::mem::replace(&mut output, receiver);
            let work = move || {
                for piece in input {
                    if next.send(stage(piece)).is_err() {
                        break;
                    }
                }
            };
            working.push(threads.spawn(move || on_queue(FEEDING + 1 + index, work)));
        }
        output.into_iter().for_each(collect);
        // What a stage panics with is for the caller, who may know it.
        working
            .into_iter()
            .for_each(|thread| thread.join().unwrap_or_else(|cause| resume_unwind(cause)));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    type Stage<'a> = Box<dyn FnMut(usize) -> usize + Send + 'a>;

    fn numbers(count: usize) -> impl FnMut() -> Option<usize> + Send {
        let mut numbers = 0..count;
        move || numbers.next()
    }

    #[test]
    fn order_is_kept_and_every_piece_sees_every_stage() {
        let stages: Vec<Stage<'_>> = vec![Box::new(|x| x * 10), Box::new(|x| x + 1)];
        let mut found = Vec::new();
        run(numbers(50), stages, |x| found.push(x));
        assert_eq!(found, (0..50).map(|x| 10 * x + 1).collect::<Vec<_>>());
    }

    /// The first stage ends piece `n + 1` only when the second has begun piece `n`: one after the other they would wait for
    /// ever.
    #[test]
    fn stages_work_at_the_same_time() {
        let meeting = Barrier::new(2);
        let meet = |x: usize, meets: bool| {
            if meets {
                meeting.wait();
            }
            x
        };
        let stages: Vec<Stage<'_>> =
            vec![Box::new(move |x| meet(x, x > 0)), Box::new(move |x| meet(x, x < 5))];
        let mut count = 0;
        run(numbers(6), stages, |_| count += 1);
        assert_eq!(count, 6);
    }

    #[test]
    fn what_feeds_and_what_collects_may_panic_too() {
        let stages = || vec![|x: usize| x, |x: usize| x];
        let feed = || -> Option<usize> { panic!("feed") };
        let panics = std::panic::catch_unwind(|| run(feed, stages(), |_| {}));
        assert_eq!(panics.unwrap_err().downcast_ref(), Some(&"feed"));
        let collect = |x| assert!(x < 3, "three");
        let panics = std::panic::catch_unwind(|| run(numbers(1000), stages(), collect));
        assert_eq!(panics.unwrap_err().downcast_ref(), Some(&"three"));
    }

    #[test]
    fn a_stage_that_panics_ends_the_others() {
        let panics = std::panic::catch_unwind(|| {
            let stages: Vec<Stage<'_>> =
                vec![Box::new(|x| x), Box::new(|x| if x == 3 { panic!("three") } else { x })];
            run(numbers(1000), stages, |_| {});
        });
        assert_eq!(panics.unwrap_err().downcast_ref(), Some(&"three"));
    }
}
