//! A fake of the Hugging Face Hub: its HTTP API, and the content host to which it redirects.
//!
//! What it leaves out: TLS, Xet, datasets and spaces, everything that writes, and repositories without an author.

mod api;
mod content;
mod faults;
mod resolve;
mod store;
#[cfg(test)]
mod tests;
mod transfer;

pub use content::{Content, pattern};
pub use faults::Faults;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::header,
    middleware::{self, Next},
    response::Response,
    serve::ListenerExt,
};
use faults::Live;
use futures::future::{join, select};
use std::{
    collections::HashSet,
    net::TcpListener,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};
use store::Store;
use tokio::sync::oneshot;
use transfer::Bodies;

/// A running hub, with a thread of its own. Dropping it breaks its connections and ends it.
#[derive(Debug)]
pub struct FakeHub {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A request that the hub or its content host got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Its header `Host`, which tells the hub from the content host.
    pub host: String,
    /// Its path as it was sent, with the query.
    pub path: String,
    /// Its header `Authorization`.
    pub authorization: Option<String>,
    /// Its header `Range`.
    pub range: Option<String>,
    /// Its header `User-Agent`.
    pub user_agent: Option<String>,
    /// The status of the answer; 0 as long as there is none, which may be for ever.
    pub status: u16,
}

impl Seen {
    fn new(request: &Request<Body>) -> Self {
        let header = |name| {
            let value = request.headers().get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Self {
            method: request.method().to_string(),
            host: header(header::HOST).unwrap_or_default(),
            path: request.uri().to_string(),
            authorization: header(header::AUTHORIZATION),
            range: header(header::RANGE),
            user_agent: header(header::USER_AGENT),
            status: 0,
        }
    }
}

/// What the handle and the threads of the server have in common.
#[derive(Debug)]
struct Shared {
    /// `http://127.0.0.1:PORT` of the hub.
    url: String,
    /// The same of the content host.
    content_url: String,
    store: Mutex<Store>,
    live: Mutex<Live>,
    seen: Mutex<Vec<Seen>>,
    bodies: Mutex<Bodies>,
    bytes_sent: AtomicU64,
    /// Signatures of redirect targets that nobody has followed yet.
    links: Mutex<HashSet<String>>,
}

impl FakeHub {
    /// Starts a hub without repositories on two free ports.
    ///
    /// # Panics
    /// When this machine has no port or no thread for it.
    pub fn start() -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").expect("a port for the hub");
        let content = TcpListener::bind("127.0.0.1:0").expect("a port for the content host");
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("it is bound"));
        let shared = Arc::new(Shared {
            url: url(&hub),
            content_url: url(&content),
            store: Mutex::default(),
            live: Mutex::default(),
            seen: Mutex::default(),
            bodies: Mutex::default(),
            bytes_sent: AtomicU64::new(0),
            links: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("fake-hub".into())
            .spawn(move || serve(&of_thread, hub, content, stopped))
            .expect("a thread for the hub");
        Self { shared, stop: Some(stop), thread: Some(thread) }
    }

    /// What the environment variable `HF_ENDPOINT` is set to.
    pub fn url(&self) -> String {
        self.shared.url.clone()
    }

    /// The host to which `resolve` redirects for files in LFS.
    pub fn content_url(&self) -> String {
        self.shared.content_url.clone()
    }

    /// Adds a file, or replaces it, as a new commit of the branch. Older commits stay.
    ///
    /// A new repository (`author/name`) has a branch `main` without files; a new branch has no files either. Files
    /// called `*.gguf`, `*.safetensors` or `*.bin`, and those larger than 1 MiB, are in LFS.
    ///
    /// # Panics
    /// When the content is a file on disk that cannot be read.
    pub fn add_file(&self, repo: &str, branch: &str, path: &str, content: impl Into<Content>) {
        let file = content::StoredFile::new(path, content.into()).expect("the content can be read");
        self.shared.store().add_file(repo, branch, file);
    }

    /// Removes a file with a new commit of the branch. Older commits stay.
    pub fn remove_file(&self, repo: &str, branch: &str, path: &str) {
        self.shared.store().remove_file(repo, branch, path);
    }

    /// The commit at which a branch is.
    ///
    /// # Panics
    /// When there is no such branch.
    pub fn commit_of(&self, repo: &str, branch: &str) -> String {
        let repo = self.shared.store().repo(repo).expect("the repository exists");
        repo.branches.get(branch).expect("the branch exists").clone()
    }

    /// Lets only those with this token see the repository: its API and its files.
    pub fn gate(&self, repo: &str, token: &str) {
        self.shared.store().change(repo, |repo| repo.token = Some(token.into()));
    }

    /// Adds a tag to a repository. Those with a GGUF file have `gguf` anyway.
    pub fn tag(&self, repo: &str, tag: &str) {
        self.shared.store().change(repo, |repo| {
            repo.tags.insert(tag.into());
        });
    }

    /// Sets by what lists of repositories may be sorted.
    pub fn set_popularity(&self, repo: &str, downloads: u64, likes: u64) {
        self.shared.store().change(repo, |repo| (repo.downloads, repo.likes) = (downloads, likes));
    }

    /// Replaces all faults; what counts starts from zero.
    pub fn set_faults(&self, faults: Faults) {
        *self.shared.live() = Live { faults, answers: 0 };
    }

    /// Bytes of content that the transport took to send them, since the start or the last reset.
    pub fn bytes_sent(&self) -> u64 {
        self.shared.bytes_sent.load(Ordering::SeqCst)
    }

    /// Counts the bytes from zero again.
    pub fn reset_bytes_sent(&self) {
        self.shared.bytes_sent.store(0, Ordering::SeqCst);
    }

    /// Every request so far, on both hosts, in the order in which they came.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// The content bodies that are being sent now.
    pub fn connections(&self) -> usize {
        lock(&self.shared.bodies).now
    }

    /// The most content bodies that were being sent at the same time.
    ///
    /// A body counts from the request on until the transport has taken its last piece, or has given up.
    pub fn peak_connections(&self) -> usize {
        lock(&self.shared.bodies).peak
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }

    fn faults(&self) -> Faults {
        self.live().faults.clone()
    }
}

/// Locks; what is behind it is right even when a test has failed meanwhile.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves until the other end of the channel is gone.
fn serve(shared: &Arc<Shared>, hub: TcpListener, content: TcpListener, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let of_hub = api::routes(shared).merge(resolve::routes());
    let of_content = resolve::content_routes();
    runtime.block_on(async {
        let both = join(serve_one(shared, hub, of_hub), serve_one(shared, content, of_content));
        select(stopped, pin!(both)).await;
    });
    // Transfers that are under way are not waited for.
    runtime.shutdown_background();
}

async fn serve_one(shared: &Arc<Shared>, listener: TcpListener, routes: Router<Arc<Shared>>) {
    listener.set_nonblocking(true).expect("a socket can be told not to block");
    let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime takes the socket");
    // Small pieces of slow bodies must not wait for one another.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    let routes =
        routes.layer(middleware::from_fn_with_state(Arc::clone(shared), record)).with_state(Arc::clone(shared));
    let _ = axum::serve(listener, routes).await;
}

/// Writes every request down, whatever becomes of it.
async fn record(State(shared): State<Arc<Shared>>, request: Request<Body>, next: Next) -> Response {
    let seen = Seen::new(&request);
    let index = {
        let mut all = lock(&shared.seen);
        all.push(seen);
        all.len() - 1
    };
    if shared.live().faults.silent {
        return std::future::pending().await;
    }
    let response = next.run(request).await;
    lock(&shared.seen)[index].status = response.status().as_u16();
    response
}
