//! `qwen3-vl serve-device`: devices of this machine for this program on other ones.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use clap::Args;
use qwen3_vl::backends::SelectedDevice;
use qwen3_vl::backends::device::{TOKEN_VARIABLE, lend, open, select};

use super::args::ThreadArgs;
use super::{Outcome, print};

/// Arguments of `serve-device`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    qwen3-vl serve-device --device cuda:0\n  \
    QWEN3_VL_REMOTE_TOKEN=... qwen3-vl serve-device --listen 10.0.0.2:3000 --device cuda:0 --device cuda:1\n  \
    qwen3-vl run MODEL --device-map remote:10.0.0.2:3000,remote:10.0.0.2:3000/1 -p \"...\"    # on another machine\n\n\
    Both programs must be of the same version. Nothing is encrypted, the token neither: use this in networks where you trust \
    everybody, or through a tunnel (ssh -L 3000:127.0.0.1:3000). Ctrl-C or SIGTERM ends it.")]
pub struct ServeDeviceArgs {
    /// Device to lend (repeat for several, of one backend): those whose numbers follow the address, from 0 on [env:
    /// QWEN3_VL_DEVICE] [default: the best present]
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Token that clients must have in the same variable
    #[arg(long, value_name = "TOKEN", env = TOKEN_VARIABLE, hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    threads: ThreadArgs,
}

/// Runs the verb.
pub fn run(args: &ServeDeviceArgs) -> anyhow::Result<Outcome> {
    args.threads.apply()?;
    let devices: Vec<SelectedDevice> = match args.device.is_empty() {
        true => vec![select(None).map_err(qwen3_vl::Error::from)?],
        false => args
            .device
            .iter()
            .map(|name| open(name))
            .collect::<Result<_, _>>()
            .map_err(qwen3_vl::Error::from)?,
    };
    let listener = TcpListener::bind(args.listen);
    let listener = listener.with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    let token = args.token.clone().filter(|token| !token.is_empty());
    if !address.ip().is_loopback() {
        let who = match token {
            Some(_) => "whoever has the token, which is sent unencrypted as everything is,",
            None => "whoever reaches this address, as there is no --token,",
        };
        print::error_line(&format!(
            "warning: {who} can compute on this machine and fill its memory"
        ));
    }
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    print::error_line(&format!("lending {} on {address}", names.join(", ")));
    lend(&devices, listener, token, print::error_line)?;
    Ok(Outcome::Done)
}
