//! `qwen3-vl devices`: what this build can run on.

use clap::Args;
use qwen3_vl::backends::cpu::{CPU_VARIABLE, CpuError, Level};
use qwen3_vl::backends::device::{DEVICE_VARIABLE, compiled, present, select};
use qwen3_vl::backends::{BackendKind, DeviceInfo};
use serde_json::json;

use super::size::{bytes, table};
use super::{Outcome, print};

/// Arguments of `devices`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  qwen3-vl devices\n  qwen3-vl devices --json")]
pub struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: &DevicesArgs) -> anyhow::Result<Outcome> {
    let devices: Vec<DeviceInfo> = present().iter().map(|device| device.info()).collect();
    let chosen = select(None).map(|device| device.name);
    if args.json {
        let list: Vec<_> = devices.iter().map(describe).collect();
        let compiled: Vec<_> = compiled().map(BackendKind::name).collect();
        let instructions = BackendKind::Flex.is_compiled().then(instructions);
        let object = json!({
            "compiled": compiled,
            "devices": list,
            "default": chosen.ok(),
            "instructions": instructions,
        });
        print::line(&object.to_string())?;
        return Ok(Outcome::Done);
    }
    let mut rows = vec![header()];
    rows.extend(devices.iter().map(row));
    for kind in compiled().filter(|kind| devices.iter().all(|d| d.kind != *kind)) {
        let absence = match kind {
            BackendKind::Remote => {
                "compiled in; remote:HOST:PORT names what `serve-device` lends there"
            }
            _ => "compiled in, no device present",
        };
        rows.push(vec![kind.name().to_owned(), absence.to_owned()]);
    }
    print::out(&table(&rows))?;
    let missing: Vec<_> = BackendKind::BEST_FIRST
        .into_iter()
        .filter(|k| !k.is_compiled())
        .map(|k| k.name())
        .collect();
    if !missing.is_empty() {
        print::line(&format!("not compiled in (cargo features): {}", missing.join(", ")))?;
    }
    if BackendKind::Flex.is_compiled() {
        print::line(&told(&names(), Level::from_env()))?;
    }
    match chosen {
        Ok(name) => {
            print::line(&format!("without --device: {name} ({DEVICE_VARIABLE} changes that)"))?
        }
        Err(error) => print::line(&format!("without --device: {error}"))?,
    }
    Ok(Outcome::Done)
}

/// The sets of instructions of `flex` that this processor has, from the narrowest to the widest.
fn names() -> Vec<&'static str> {
    Level::present().map(Level::name).collect()
}

/// The same with the one that is used; none where the environment asks for what is not there.
fn instructions() -> serde_json::Value {
    json!({ "present": names(), "used": Level::from_env().ok().map(Level::name) })
}

/// A sentence about them.
fn told(present: &[&str], used: Result<Level, CpuError>) -> String {
    let present = present.join(", ");
    match used {
        Ok(level) => format!(
            "instructions for flex: {present}; {} is used ({CPU_VARIABLE} changes that)",
            level.name()
        ),
        Err(error) => format!("instructions for flex: {present}; {error}"),
    }
}

fn header() -> Vec<String> {
    ["DEVICE", "HARDWARE", "DTYPES", "MEMORY", "LARGEST BUFFER"].map(str::to_owned).to_vec()
}

fn row(device: &DeviceInfo) -> Vec<String> {
    let memory = device.memory.map_or("-".to_owned(), |memory| {
        format!("{} free of {}", bytes(memory.available), bytes(memory.total))
    });
    vec![
        device.name.clone(),
        device.hardware.clone(),
        device.dtypes.join(" "),
        memory,
        device.max_buffer.map_or("-".to_owned(), bytes),
    ]
}

fn describe(device: &DeviceInfo) -> serde_json::Value {
    json!({
        "name": device.name,
        "backend": device.kind.name(),
        "hardware": device.hardware,
        "dtypes": device.dtypes,
        "memory_bytes": device.memory.map(|m| m.total),
        "memory_available_bytes": device.memory.map(|m| m.available),
        "max_buffer_bytes": device.max_buffer,
    })
}
