//! `qwen3-vl serve` from outside, over HTTP on loopback.

#![cfg(feature = "server")]

mod access;
mod answers;
mod batching;
mod bench;
mod clients;
#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "cuda")]
mod cuda;
mod dialects;
mod fuzz;
mod harness;
mod idle;
mod limits;
mod page;
mod prompts;
mod random;
mod responses;
mod soak;
mod tls;
