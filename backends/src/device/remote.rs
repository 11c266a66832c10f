//! Devices of other machines: `remote:HOST:PORT`, by Burn's remote protocol over WebSocket, and the other end of it.

use std::future::Future;
use std::net::{Ipv6Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use burn::backend::DispatchDevice;
use burn::remote::{ConnectError, RemoteHost};
use burn::server::{
    AuthorizationRequest, EmptyToken, PeerAuthorizer, RemoteServer, ServeError, TokenAuthorizer,
    WebSocketTransport,
};
use burn::tensor::{DType, Device, Slice, Tensor, TensorData};

use super::{BackendKind, DeviceError, DeviceFailure, DeviceLost, SelectedDevice};

/// The environment variable with the token that lenders ask for and borrowers bring.
pub const TOKEN_VARIABLE: &str = "QWEN3_VL_REMOTE_TOKEN";

/// In which a machine must take a connection.
const REACHED: Duration = Duration::from_secs(5);
/// In which it must then open a session.
const OPENED: Duration = Duration::from_secs(30);
/// After which a machine that has not answered is looked for. Only a connection that is idle notices that by itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of one message; Burn takes 1 GiB at most.
const PIECE: usize = 256 << 20;
/// Bytes from which a message is waited for, so that few wait to be sent.
const HEAVY: usize = 16 << 20;

/// Which device of which machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    /// `HOST:PORT`.
    server: String,
    /// Among the devices that are lent there.
    index: usize,
}

impl Address {
    /// Reads `HOST:PORT` or `HOST:PORT/1`, with or without `ws://` before it.
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("ws://").unwrap_or(text);
        let (server, index) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = server.rsplit_once(':')?;
        let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match in_brackets {
            Some(host) => host.parse::<Ipv6Addr>().is_ok(),
            None => {
                let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
                !host.is_empty() && host.chars().all(is_part)
            }
        };
        let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
        let index = if index.is_empty() { 0 } else { index.parse().ok()? };
        (is_host && is_port).then(|| Self { server: server.to_owned(), index })
    }

    /// As `--device` has it.
    fn name(&self) -> String {
        match self.index {
            0 => format!("remote:{}", self.server),
            index => format!("remote:{}/{index}", self.server),
        }
    }
}

/// A device whose session was opened. Burn keeps sessions until the program ends.
#[derive(Debug, Clone)]
struct Session {
    address: Address,
    device: Device,
    /// What it can hold.
    dtypes: Vec<DType>,
}

/// Those of this program.
fn sessions() -> MutexGuard<'static, Vec<Session>> {
    static SESSIONS: Mutex<Vec<Session>> = Mutex::new(Vec::new());
    SESSIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That of a device.
fn session(device: &Device) -> Option<Session> {
    let device = device.clone().without_autodiff();
    sessions().iter().find(|session| session.device == device).cloned()
}

/// Opens the device at `address`, as which `name` gives it.
pub(super) fn open(name: &str, address: &str) -> Result<SelectedDevice, DeviceError> {
    let address = Address::parse(address)
        .ok_or_else(|| DeviceError::RemoteName { name: name.trim().to_owned() })?;
    let name = address.name();
    match connect(&address) {
        Ok(session) => {
            let device = session.device.clone();
            let mut sessions = sessions();
            sessions.retain(|known| known.device != device);
            sessions.push(session);
            Ok(SelectedDevice { kind: BackendKind::Remote, name, device })
        }
        Err(reason) => Err(DeviceError::Remote { name, reason }),
    }
}

/// Opens a session, or says why there is none. Burn would try for 16 seconds where nothing listens, and wait for ever where
/// nothing answers.
fn connect(address: &Address) -> Result<Session, String> {
    let server = &address.server;
    reach(server).map_err(|reason| {
        format!("nothing takes connections at {server} ({reason}); `qwen3-vl serve-device` there lends the devices of that machine")
    })?;
    let (sender, receiver) = mpsc::channel();
    let asked = address.clone();
    let ask = move || drop(sender.send(open_session(asked)));
    let thread = thread::Builder::new().name("remote device".to_owned()).spawn(ask);
    thread.map_err(|error| format!("no thread can be started: {error}"))?;
    let silent =
        |_| format!("what listens at {server} does not answer as `qwen3-vl serve-device` does");
    receiver.recv_timeout(OPENED).map_err(silent)?
}

fn open_session(address: Address) -> Result<Session, String> {
    let host = RemoteHost::websocket(&format!("ws://{}", address.server));
    let host = match std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()) {
        Some(token) => host.with_credential(token),
        None => host,
    };
    let device = Device::remote_options(&host).device_index(address.index).init();
    let device = device.map_err(|error| refusal(&error))?;
    // Opened before, it may have been lost since, and Burn does not open it again.
    device.sync().map_err(|_| {
        "this program has lost its connection before; only a new start opens another one".to_owned()
    })?;
    let dtypes = [DType::F32, DType::BF16, DType::F16].into_iter();
    let dtypes = dtypes.filter(|dtype| device.supports_dtype(*dtype)).collect();
    Ok(Session { address, device, dtypes })
}

fn refusal(error: &ConnectError) -> String {
    match error {
        ConnectError::Unauthorized => {
            format!("it asks for a token, and {TOKEN_VARIABLE} has none or another one")
        }
        error => error.to_string(),
    }
}

/// Whether anything takes connections at `HOST:PORT`; if not, why.
fn reach(server: &str) -> Result<(), String> {
    let found = server.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut reason = "that name has no address".to_owned();
    for address in found {
        match TcpStream::connect_timeout(&address, REACHED) {
            Ok(_) => return Ok(()),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}

pub(super) fn is_remote(device: &Device) -> bool {
    let device = device.clone().without_autodiff();
    matches!(device.as_dispatch(), DispatchDevice::Remote(_))
}

/// Whether what is moved from one device to the other goes through this machine because it leaves another.
pub(super) fn is_away(from: &Device, to: &Device) -> bool {
    is_remote(from)
        && session(from).map(|s| s.address.server) != session(to).map(|s| s.address.server)
}

/// Whether weights of `dtype` can be held on a device.
pub(super) fn holds(device: &Device, dtype: DType) -> bool {
    session(device).is_some_and(|session| session.dtypes.contains(&dtype))
}

fn lost(device: &Device, reason: String) -> DeviceFailure {
    let name = session(device).map_or("remote".to_owned(), |session| session.address.name());
    DeviceLost { device: name, reason }.into()
}

pub(super) fn read<const D: usize>(tensor: Tensor<D>) -> TensorData {
    let device = tensor.device();
    let ended =
        "its machine ended the connection; what that program says, if it still runs, may tell why";
    let look = || session(&device).map_or(Ok(()), |session| reach(&session.address.server));
    match wait_for(Box::pin(tensor.into_data_async()), PATIENCE, look) {
        Ok(Ok(data)) => data,
        Ok(Err(error)) => {
            let goes_on = device.sync().is_ok();
            let reason = if goes_on { format!("it failed ({error})") } else { ended.to_owned() };
            lost(&device, reason).leave()
        }
        Err(reason) => lost(&device, format!("its machine is out of reach ({reason})")).leave(),
    }
}

pub(super) fn settle(device: &Device) {
    drop(read(Tensor::<1>::zeros([1], (device, DType::F32))));
}

/// Uploads a weight, which has its dtype already.
pub(super) fn upload<const D: usize>(data: TensorData, device: &Device) -> Tensor<D> {
    let (dtype, bytes) = (data.dtype(), data.as_bytes().len());
    let shape = data.shape().to_vec();
    let rows = (PIECE / (bytes / shape[0].max(1)).max(1)).max(1);
    if bytes <= PIECE || rows >= shape[0] {
        return waited_for(Tensor::from_data(data, (device, dtype)), bytes);
    }
    let row = bytes / shape[0];
    let pieces = data.as_bytes().chunks(rows * row).map(|piece| {
        let mut shape = shape.clone();
        shape[0] = piece.len() / row;
        let data = TensorData::from_bytes_vec(piece.to_vec(), shape, dtype);
        waited_for(Tensor::<D>::from_data(data, (device, dtype)), piece.len())
    });
    Tensor::cat(pieces.collect(), 0)
}

/// `tensor` of so many `bytes`, when it has arrived.
fn waited_for<const D: usize>(tensor: Tensor<D>, bytes: usize) -> Tensor<D> {
    if bytes >= HEAVY {
        let first = [Slice::from(0isize..1); D];
        drop(read(tensor.clone().slice(first)));
    }
    tensor
}

/// Waits for an answer, as long as `look`, which is called whenever there was none for a while, finds nothing wrong.
fn wait_for<T>(
    mut answer: Pin<Box<dyn Future<Output = T> + '_>>,
    patience: Duration,
    look: impl Fn() -> Result<(), String>,
) -> Result<T, String> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut looked = Instant::now();
    loop {
        if let Poll::Ready(answer) = answer.as_mut().poll(&mut context) {
            return Ok(answer);
        }
        thread::park_timeout(patience);
        if looked.elapsed() >= patience {
            look()?;
            looked = Instant::now();
        }
    }
}

/// Wakes a thread that waits for an answer.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Why devices are not lent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LendError {
    #[error("the token is empty")]
    Token(#[from] EmptyToken),
    #[error("the devices cannot be lent: {0}")]
    Serve(#[from] ServeError),
}

/// Lends `devices`, which are of one backend, to whoever connects to `listener` and brings `token` where there is one, until
/// Ctrl-C or SIGTERM. `told` is told of every session that is opened or refused.
///
/// # Errors
/// When the devices are of several backends or remote themselves, or the listener fails.
pub fn lend(
    devices: &[SelectedDevice],
    listener: TcpListener,
    token: Option<String>,
    told: impl Fn(&str) + Send + Sync + 'static,
) -> Result<(), LendError> {
    let names: Vec<String> = devices.iter().map(|device| device.name.clone()).collect();
    let token = token.map(TokenAuthorizer::new).transpose()?;
    let open = move |request: AuthorizationRequest<'_>| {
        let (client, index) = (request.client, request.device_index as usize);
        let device = names.get(index).cloned().unwrap_or_else(|| format!("device {index}"));
        let opened = token.as_ref().map_or(Ok(()), |token| token.authorize(request));
        match &opened {
            Ok(()) => told(&format!("{client} computes on {device}")),
            Err(reason) => told(&format!("refused: {reason}")),
        }
        opened
    };
    let server = RemoteServer::new(devices.iter().map(|device| device.device.clone()));
    Ok(server.with_authorizer(open).serve(WebSocketTransport::from_listener(listener))?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for (text, name) in [
            ("127.0.0.1:3000", "remote:127.0.0.1:3000"),
            ("ws://box:3000/", "remote:box:3000"),
            ("gpu-2.example.org:80/3", "remote:gpu-2.example.org:80/3"),
            ("[::1]:3000", "remote:[::1]:3000"),
        ] {
            assert_eq!(Address::parse(text).unwrap().name(), name);
        }
        for bad in [
            "",
            "box",
            "box:",
            ":3000",
            "box:0",
            "box:70000",
            "box:3000/x",
            "::1:3000",
            "a b:3000",
            "http://box:3000",
            "user@box:3000",
            "box:3000/1/2",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_machine_that_is_not_there_is_told_at_once() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = open("", &format!("127.0.0.1:{port}")).unwrap_err().to_string();
        assert!(error.contains(&format!("remote:127.0.0.1:{port}")), "{error}");
        assert!(error.contains("nothing takes connections"), "{error}");
    }

    #[test]
    fn an_answer_is_waited_for_until_nothing_is_there_any_more() {
        let (patience, calls) = (Duration::from_millis(5), Cell::new(0));
        let look = || {
            calls.set(calls.get() + 1);
            if calls.get() < 3 { Ok(()) } else { Err("gone".to_owned()) }
        };
        let never = Box::pin(std::future::pending::<()>());
        assert_eq!(wait_for(never, patience, look), Err("gone".to_owned()));
        assert_eq!(calls.get(), 3);
        let late = Arc::new(Mutex::new(None::<Waker>));
        let (set, begun) = (Arc::clone(&late), Instant::now());
        let answer = std::future::poll_fn(move |context| {
            let ready = begun.elapsed() > Duration::from_millis(50);
            *set.lock().unwrap() = Some(context.waker().clone());
            if ready { Poll::Ready(7) } else { Poll::Pending }
        });
        let waking = thread::spawn(move || {
            thread::sleep(Duration::from_millis(60));
            late.lock().unwrap().take().unwrap().wake();
        });
        // Woken by the other thread, long before it would look.
        assert_eq!(wait_for(Box::pin(answer), PATIENCE, || Err("late".to_owned())), Ok(7));
        waking.join().unwrap();
    }
}
