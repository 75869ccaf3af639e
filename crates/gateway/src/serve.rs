//! `tollgate serve`: workers, connections, signals, and an orderly end.
//!
//! Each worker is a thread with a runtime of its own; a connection lives and dies on one worker, and so do the
//! connections to providers that it uses. Workers share the listening socket and whoever is free accepts.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use prometheus_client::metrics::gauge::Gauge;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tollgate_store::Store;
use tollgate_types::Clock;

use crate::alerts;
use crate::app::App;
use crate::audit;
use crate::config::{Config, Environment, Listening, Role, Tls, WorkerConfig};
use crate::http::body::Body;
use crate::http::routes;
use crate::workers::server::WorkerApp;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// How often the sweep looks for reservations past their deadline.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How often what is older than its plan keeps it is erased from the audit log.
const RETAIN_EVERY: Duration = Duration::from_secs(3_600);
/// How long past its deadline a reservation may be before it is swept: a permit ends itself well before.
const SWEEP_GRACE: Duration = Duration::from_secs(20);
/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// A TLS handshake that takes longer is given up.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether the workers serve something else.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// What is served: a gateway, or a worker of gateways.
pub trait House: Send + Sync + 'static {
    fn listening(&self) -> &Listening;

    fn connections(&self) -> &Gauge;

    /// Answers one request. Never fails: whatever is refused or goes wrong is an answer too.
    fn handle(self: Arc<Self>, peer: IpAddr, request: Request<Incoming>)
    -> impl Future<Output = Response<Body>> + Send;

    /// Waits until nothing goes on that may outlive its connection.
    fn none_under_way(&self) -> impl Future<Output = ()> + Send;
}

/// A gateway that is up.
pub struct Running {
    pub app: Arc<App>,
    pub address: SocketAddr,
    store: Store,
    threads: Threads,
}

/// Threads that serve.
struct Threads {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    all: Vec<JoinHandle<()>>,
}

/// Serves until told to stop by a signal.
pub fn run(config_path: &Path, role: Role) -> Result<()> {
    match role {
        Role::Worker => run_worker(config_path),
        Role::All | Role::Gateway => run_gateway(config_path, role),
    }
}

/// A worker serves until told to stop, too.
fn run_worker(config_path: &Path) -> Result<()> {
    let environment = Environment::of_process();
    let config = WorkerConfig::load(config_path, &environment)?;
    crate::log::start(&config.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    let app = WorkerApp::start(&config, Clock::System)?;
    let threads = Threads::start(&app)?;
    tracing::info!(
        address = %threads.address, role = "worker", workers = config.server.workers, tls = config.server.tls.is_some(), routes = app.routes(),
        "serving"
    );
    runtime.block_on(async {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.hangup.recv() => reload_worker(&app, config_path, &environment),
            }
        }
    });
    tracing::info!(patience_s = config.server.drain.as_secs(), "draining");
    app.begin_drain();
    threads.stop();
    tracing::info!("stopped");
    Ok(())
}

fn reload_worker(app: &WorkerApp, config_path: &Path, environment: &Environment) {
    let loaded = WorkerConfig::load(config_path, environment).map_err(anyhow::Error::from);
    match loaded.and_then(|config| app.reload(&config).map_err(anyhow::Error::from)) {
        Ok(()) => tracing::info!(routes = app.routes(), "configuration reloaded"),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "configuration not reloaded; the last good one stays")
        }
    }
}

fn run_gateway(config_path: &Path, role: Role) -> Result<()> {
    let environment = Environment::of_process();
    let config = Config::load(config_path, &environment)?.in_role(role)?;
    crate::log::start(&config.log)?;
    // What the store writes is for its owner alone, whoever made its folder.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anybody can see us ready: a signal that comes early is not lost.
    let signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    let running = start(&config, Clock::System)?;
    note_configuration(&running.app, "start", config_path, &config);
    tracing::info!(
        address = %running.address, workers = config.server.workers, tls = config.server.tls.is_some(),
        store = %config.store.dir.display(), routes = config.routing.routes.len(), "serving"
    );
    runtime.block_on(until_stopped(&running.app, signals, config_path, &environment, role))?;
    tracing::info!(patience_s = config.server.drain.as_secs(), "draining");
    running.stop();
    tracing::info!("stopped; the books are closed");
    Ok(())
}

/// Starts everything and returns once requests are taken.
pub fn start(config: &Config, clock: Clock) -> Result<Running> {
    let (app, store) = App::start(config, clock)?;
    let threads = Threads::start(&app)?;
    Ok(Running { app, address: threads.address, store, threads })
}

// === impl House ===

impl House for App {
    fn listening(&self) -> &Listening {
        &self.server
    }

    fn connections(&self) -> &Gauge {
        &self.metrics.connections
    }

    async fn handle(self: Arc<Self>, peer: IpAddr, request: Request<Incoming>) -> Response<Body> {
        routes::handle(self, peer, request).await
    }

    async fn none_under_way(&self) {
        // Requests that may be repeated, and those of runtimes, go on without their callers.
        self.twins.none_under_way().await;
        self.local_work.none_under_way().await;
        self.coalesced_work.none_under_way().await;
    }
}

impl House for WorkerApp {
    fn listening(&self) -> &Listening {
        &self.server
    }

    fn connections(&self) -> &Gauge {
        Self::connections(self)
    }

    async fn handle(self: Arc<Self>, peer: IpAddr, request: Request<Incoming>) -> Response<Body> {
        Self::handle(self, peer, request).await
    }

    async fn none_under_way(&self) {
        self.under_way.none_under_way().await;
    }
}

// === impl Threads ===

impl Threads {
    fn start<H: House>(house: &Arc<H>) -> Result<Self> {
        let server = house.listening();
        let listener = listen(server.listen)
            .with_context(|| format!("cannot listen on {}; is another process there?", server.listen))?;
        let address = listener.local_addr()?;
        let tls = server.tls.as_ref().map(acceptor).transpose()?;
        let (stop, stopped) = watch::channel(false);
        let mut all = Vec::with_capacity(server.workers);
        for n in 0..server.workers {
            let worker = Worker { house: Arc::clone(house), tls: tls.clone(), stopped: stopped.clone() };
            let listener = listener.try_clone()?;
            all.push(thread::Builder::new().name(format!("worker-{n}")).spawn(move || worker.run(listener))?);
        }
        Ok(Self { address, stop, all })
    }

    /// No new connections; what is under way ends or is cut off.
    fn stop(self) {
        // Nobody listening any more means that the threads have ended already.
        let _ = self.stop.send(true);
        for thread in self.all {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

// === impl Running ===

impl Running {
    /// Ends in order: no new connections, requests under way end or are cut off, the books are closed.
    pub fn stop(self) {
        let Self { app, store, threads, .. } = self;
        app.begin_drain();
        threads.stop();
        audit::tell_denials(&app, true);
        drop(app);
        store.close();
    }
}

/// What the program is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them from now on.
    fn listen() -> io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, hangup: signal(SignalKind::hangup())? })
    }
}

/// Sweeps and reloads until SIGTERM or SIGINT.
async fn until_stopped(
    app: &Arc<App>,
    mut signals: Signals,
    config_path: &Path,
    environment: &Environment,
    role: Role,
) -> Result<()> {
    let indeterminate_age = Config::load(config_path, environment)?.store.indeterminate_age;
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let mut retain = tokio::time::interval(RETAIN_EVERY);
    let mut follow = tokio::time::interval(FOLLOW_EVERY);
    let mut retaining: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.hangup.recv() => reload(app, config_path, environment, role),
            _ = follow.tick() => app.follow_workers(),
            _ = sweep.tick() => tidy_books(app, indeterminate_age),
            _ = retain.tick() => {
                if retaining.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) {
                    let app = Arc::clone(app);
                    retaining = Some(tokio::task::spawn_blocking(move || audit::retain(&app)));
                }
            }
        }
    }
}

fn tidy_books(app: &App, indeterminate_age: Duration) {
    alerts::collect(app);
    audit::tell_denials(app, false);
    let swept = app.books.sweep(SWEEP_GRACE);
    if swept > 0 {
        tracing::error!(
            reservations = swept,
            "swept past their deadline: their callers stopped reading, or this program has a fault"
        );
    }
    let aged = app.books.settle_aged(indeterminate_age);
    if aged > 0 {
        tracing::warn!(reservations = aged, "indeterminate for too long: posted at their full hold, as bounded");
    }
}

fn note_configuration(app: &App, act: &'static str, path: &Path, config: &Config) {
    let books = config.price_books.iter().map(|book| &**book);
    audit::note_configuration(app, act, &std::iter::once(path).chain(books).collect::<Vec<_>>());
}

/// Validated first, then all at once; what is wrong changes nothing.
fn reload(app: &App, config_path: &Path, environment: &Environment, role: Role) {
    let reloaded = Config::load(config_path, environment)
        .and_then(|config| config.in_role(role))
        .map_err(anyhow::Error::from)
        .and_then(|config| app.reload(&config).map(|()| config).map_err(anyhow::Error::from));
    match reloaded {
        Ok(config) => {
            note_configuration(app, "reload", config_path, &config);
            tracing::info!(routes = app.routing().routes.len(), "configuration reloaded");
        }
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "configuration not reloaded; the last good one stays")
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor> {
    let key =
        PrivateKeyDer::from_pem_slice(tls.key.expose().as_bytes()).context("server.tls.key holds no private key")?;
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(tls.cert.clone(), key)
        .context("server.tls: the certificate and the key do not fit together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// One thread's share of the work.
struct Worker<H> {
    house: Arc<H>,
    tls: Option<TlsAcceptor>,
    stopped: watch::Receiver<bool>,
}

// === impl Worker ===

impl<H: House> Worker<H> {
    fn run(self, listener: TcpListener) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "a worker cannot start"),
        };
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => self.accept(listener).await,
                Err(error) => tracing::error!(%error, "a worker cannot listen"),
            }
        });
        // What still runs is dropped here: its permits settle themselves.
        runtime.shutdown_timeout(Duration::from_secs(1));
    }

    async fn accept(mut self, listener: tokio::net::TcpListener) {
        let places = Arc::new(Semaphore::new(self.house.listening().connections_max));
        let graceful = GracefulShutdown::new();
        loop {
            let place = tokio::select! {
                place = Arc::clone(&places).acquire_owned() => place,
                _ = self.stopped.changed() => break,
            };
            let Ok(place) = place else { break };
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, peer)) => self.serve(socket, peer.ip(), place, &graceful),
                    Err(error) => Self::accept_failed(&error).await,
                },
                _ = self.stopped.changed() => break,
            }
        }
        drop(listener);
        let ends = async {
            graceful.shutdown().await;
            self.house.none_under_way().await;
        };
        let drained = tokio::time::timeout(self.house.listening().drain, ends).await;
        if drained.is_err() {
            tracing::warn!("requests were still under way at the end of the drain: cut off, and posted at their holds");
        }
    }

    /// Out of files, most likely: let some connections end before trying again.
    async fn accept_failed(error: &io::Error) {
        tracing::warn!(%error, "a connection cannot be accepted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    fn serve(
        &self,
        socket: tokio::net::TcpStream,
        peer: IpAddr,
        place: tokio::sync::OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
    ) {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it began");
            return;
        }
        let (house, watcher, mut stopped) = (Arc::clone(&self.house), graceful.watcher(), self.stopped.clone());
        match self.tls.clone() {
            None => drop(tokio::spawn(async move {
                let http2 = tokio::select! {
                    http2 = begins_as_http2(&socket, house.listening().header_timeout) => http2,
                    _ = stopped.changed() => None,
                };
                if let Some(http2) = http2 {
                    converse(house, peer, socket, http2, watcher, place).await;
                }
            })),
            Some(tls) => drop(tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_PATIENCE, tls.accept(socket)).await {
                    Ok(Ok(secured)) => {
                        let http2 = secured.get_ref().1.alpn_protocol() == Some(b"h2");
                        converse(house, peer, secured, http2, watcher, place).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            })),
        }
    }
}

/// Completes if no request has come by then: who only greets, as HTTP/2 lets it, does not keep its connection for ever.
async fn silence(spoken: &AtomicBool, patience: Duration) {
    tokio::time::sleep(patience).await;
    if spoken.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Serves one connection until it ends.
async fn converse<H, S>(
    house: Arc<H>,
    peer: IpAddr,
    socket: S,
    http2: bool,
    watcher: hyper_util::server::graceful::Watcher,
    place: tokio::sync::OwnedSemaphorePermit,
) where
    H: House,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let header_timeout = house.listening().header_timeout;
    house.connections().inc();
    let spoken = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let (house, spoken) = (Arc::clone(&house), Arc::clone(&spoken));
        move |request| {
            spoken.store(true, Ordering::Relaxed);
            let house = Arc::clone(&house);
            async move { Ok::<_, Infallible>(house.handle(peer, request).await) }
        }
    });
    let socket = TokioIo::new(socket);
    let ended = if http2 {
        let mut server = http2::Builder::new(TokioExecutor::new());
        server.timer(TokioTimer::new()).max_concurrent_streams(STREAMS_MAX);
        server.keep_alive_interval(Some(header_timeout)).keep_alive_timeout(HANDSHAKE_PATIENCE);
        tokio::select! {
            ended = watcher.watch(server.serve_connection(socket, service)) => ended,
            () = silence(&spoken, header_timeout) => Ok(()),
        }
    } else {
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(header_timeout);
        watcher.watch(server.serve_connection(socket, service)).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
    house.connections().dec();
    drop(place);
}

/// Whether a plain connection begins with HTTP/2's preface. A client that says nothing in time is let go; one that sends
/// less than a whole preface in its first packet speaks HTTP/1.
async fn begins_as_http2(socket: &tokio::net::TcpStream, patience: Duration) -> Option<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = [0; PREFACE.len()];
    let peeked = tokio::time::timeout(patience, socket.peek(&mut first)).await.ok()?.ok()?;
    Some(&first[..peeked] == PREFACE)
}
