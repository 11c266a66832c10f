//! Output that survives a closed pipe, and errors with hints.

use std::io::{self, IsTerminal, Write};

use qwen3_vl::Error;
use qwen3_vl::backends::{DeviceError, MapError};
use qwen3_vl::weights::LoadError;

/// Writes to standard output at once.
///
/// # Errors
/// When the other end is closed, see [`is_closed_pipe`].
pub fn out(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Writes a line to standard output.
///
/// # Errors
/// As [`out`].
pub fn line(text: &str) -> anyhow::Result<()> {
    out(&format!("{text}\n"))
}

/// Writes a line to standard error; a closed one is ignored.
pub fn error_line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes to standard error, dimmed where it is a terminal that wants colour.
pub fn aside(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = match stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        true => write!(stderr, "\x1b[2m{text}\x1b[0m"),
        false => write!(stderr, "{text}"),
    };
    let _ = stderr.flush();
}

/// Whether the reader of our output went away (`| head -1`), which ends a program without complaint.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// The messages of an error and its causes, each said once.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether an error is about a device of another machine, and says what to do.
fn is_of_remote(error: &DeviceError) -> bool {
    match error {
        DeviceError::Remote { .. } | DeviceError::RemoteName { .. } => true,
        DeviceError::Map(MapError::Device { source, .. }) => is_of_remote(source),
        _ => false,
    }
}

/// What the user can do about an error.
pub fn hint(error: &anyhow::Error) -> Option<&'static str> {
    match error.downcast_ref::<Error>()? {
        error if error.lost_device().is_some_and(|lost| lost.device.starts_with("remote")) => {
            Some("start `qwen3-vl serve-device` there again if it has ended, then this program")
        }
        error if error.lost_device().is_some() => {
            Some("its driver gave it up for this program; start it again")
        }
        Error::Device(DeviceError::UnsupportedDtype { .. } | DeviceError::MixedCompute { .. }) => {
            Some("`--dtype auto` takes the checkpoint's dtype where the devices have it, else f32")
        }
        Error::Device(DeviceError::Map(error)) if !matches!(error, MapError::Device { .. }) => {
            Some("`qwen3-vl plan MODEL --device-map MAP` shows what a map places where")
        }
        Error::Device(error) if is_of_remote(error) => None,
        Error::Device(_) => Some("`qwen3-vl devices` lists what this build has"),
        Error::Load(LoadError::Mismatch { .. }) => {
            Some("`qwen3-vl inspect DIR` compares a checkpoint with its config.json")
        }
        Error::Load(LoadError::NoWeights { .. } | LoadError::Header { .. }) => {
            Some("download the checkpoint again; a transfer may have been cut off")
        }
        _ => None,
    }
}
