//! A server that nobody asks does nothing.

#![cfg(target_os = "linux")]

use std::time::Duration;

use crate::harness::{Server, ask};

/// How often the threads of a process were given a processor, and ticks that they used.
fn work(pid: u32) -> (u64, u64) {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let switches = threads.filter_map(|thread| {
        let status = std::fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
        let counts = status.lines().filter_map(|line| {
            let (name, count) = line.split_once(':')?;
            name.ends_with("voluntary_ctxt_switches").then(|| count.trim().parse::<u64>().ok())?
        });
        Some(counts.sum::<u64>())
    });
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name in brackets, user and system time are the 12th and 13th.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
    (switches.sum(), ticks.sum())
}

/// After answers, connections that stay open and a picture, no thread wakes up any more.
#[test]
fn nobody_asks_and_no_thread_wakes() {
    let server = Server::start("dense_tied", &[]);
    server.chat(&ask("What is this?", &["e2e/gradient.png"], 8));
    let pid = server.child.id();
    server.wait_for("second without work", || {
        let (switches, ticks) = work(pid);
        std::thread::sleep(Duration::from_secs(1));
        let (later, used) = work(pid);
        println!("{} times awake, {} ticks", later - switches, used - ticks);
        later - switches <= 2 && used == ticks
    });
}
