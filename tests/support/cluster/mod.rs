//! A stand-in for a Kubernetes API server: as much of it as freshcreds asks for, in
//! memory, on a thread of its own, and able to fail.
//!
//! Its kubeconfig says `server: http://127.0.0.1:PORT`.

mod fields;
mod server;
mod store;
#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use self::fields::Writer;
use self::server::{Canned, Fault, Shared};
pub(crate) use self::store::Kind;
use self::store::{Key, Refusal, Store};

/// Who else writes in the cluster: the manager of what the handle itself does.
pub(crate) const SOMEBODY: &str = "somebody";

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// As in `GET`.
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    /// As it came, still encoded.
    pub(crate) query: String,
    /// 0 until there is an answer.
    pub(crate) status: u16,
}

/// What somebody may do, as a rule of RBAC.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    verbs: Vec<String>,
    resource: String,
    namespace: String,
    names: Vec<String>,
}

impl Rule {
    /// `verbs` and `names` are words with spaces between; `*` is all of them. The
    /// namespace `*` is that of a `ClusterRole` bound cluster-wide.
    #[must_use]
    pub(crate) fn new(verbs: &str, resource: &str, namespace: &str, names: &str) -> Self {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Self {
            verbs: words(verbs),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            names: words(names),
        }
    }

    fn allows(&self, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let has = |words: &[String], word: &str| words.iter().any(|it| it == "*" || it == word);
        has(&self.verbs, verb)
            && (self.resource == "*" || self.resource == resource)
            && (self.namespace == "*" || self.namespace == namespace)
            && has(&self.names, name)
    }
}

/// The handle of a server that runs until it is dropped.
pub(crate) struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Handle,
    accepting: Mutex<Option<tokio::task::JoinHandle<()>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// On any free port, with the namespace `default`.
    ///
    /// # Errors
    ///
    /// If there is no port or no thread.
    pub(crate) fn start() -> Result<Self> {
        let (store, mut chores) = Store::new();
        let shared = Arc::new(Shared::new(store));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let controllers = shared.clone();
        runtime.spawn(async move {
            while let Some((delay, chore)) = chores.recv().await {
                let shared = controllers.clone();
                tokio::spawn(async move {
                    server::rest(delay).await;
                    shared.store().does(chore);
                });
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let name = "cluster".to_owned();
        // It ends by a word or by the handle's end, which is all the same.
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || drop(runtime.block_on(stopped)))?;
        let standin = Self {
            address,
            shared,
            runtime: handle,
            accepting: Mutex::new(None),
            stop: Some(stop),
            thread: Some(thread),
        };
        standin.listen(listener)?;
        standin.create_namespace("default", &[])?;
        Ok(standin)
    }

    /// Where it listens.
    #[must_use]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// As a kubeconfig has it.
    #[must_use]
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig for it; with a token for one of the users of [`Self::allow`].
    #[must_use]
    pub(crate) fn kubeconfig(&self, token: Option<&str>) -> String {
        let user = token.map_or_else(|| "{}".to_owned(), |token| format!("{{token: {token}}}"));
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: standin\n\
             clusters: [{{name: standin, cluster: {{server: \"{}\"}}}}]\n\
             users: [{{name: standin, user: {user}}}]\n\
             contexts: [{{name: standin, context: {{cluster: standin, user: standin}}}}]\n",
            self.url()
        )
    }

    // Looking and changing, without HTTP.

    /// An object as it is now. The namespace of what has none is "".
    #[must_use]
    pub(crate) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let object = self.shared.store().find(kind, &key(namespace, name));
        object.map(|object| object.whole())
    }

    /// All objects of a kind, by namespace and name.
    #[must_use]
    pub(crate) fn list(&self, kind: Kind) -> Vec<Value> {
        self.shared.store().all(kind).map(|object| object.whole()).collect()
    }

    /// Creates what `kind` and `metadata` of the value say, as [`SOMEBODY`].
    ///
    /// # Errors
    ///
    /// What the server would refuse.
    pub(crate) fn create(&self, value: Value) -> Result<Value> {
        let (kind, key) = place(&value)?;
        let done = self.shared.store().create(kind, key, value, &Writer::new(SOMEBODY));
        done.map(|object| object.whole()).map_err(|refusal| refused(&refusal))
    }

    /// A namespace with labels.
    ///
    /// # Errors
    ///
    /// If there is one already.
    pub(crate) fn create_namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<Value> {
        let mut value = serde_json::json!({ "kind": "Namespace", "metadata": { "name": name } });
        for (key, label) in labels {
            value["metadata"]["labels"][*key] = (*label).into();
        }
        self.create(value)
    }

    /// Replaces an object, or creates it, as [`SOMEBODY`].
    ///
    /// # Errors
    ///
    /// What the server would refuse; a stale resource version, if there is one.
    pub(crate) fn replace(&self, value: Value) -> Result<Value> {
        let (kind, key) = place(&value)?;
        let mut store = self.shared.store();
        let by = Writer::new(SOMEBODY);
        let done = if store.find(kind, &key).is_some() {
            store.update(kind, key, value, &by).map(|(object, _)| object)
        } else {
            store.create(kind, key, value, &by)
        };
        done.map(|object| object.whole()).map_err(|refusal| refused(&refusal))
    }

    /// Changes an object where it is, as [`SOMEBODY`].
    ///
    /// # Errors
    ///
    /// If it is not there, or what the server would refuse.
    pub(crate) fn edit(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value> {
        let key = key(namespace, name);
        let mut store = self.shared.store();
        let found = store.find(kind, &key).with_context(|| format!("there is no {key:?}"))?;
        let mut value = found.whole();
        change(&mut value);
        let done = store.update(kind, key, value, &Writer::new(SOMEBODY));
        done.map(|(object, _)| object.whole()).map_err(|refusal| refused(&refusal))
    }

    /// Deletes an object, if it is there. A namespace takes its time.
    pub(crate) fn delete(&self, kind: Kind, namespace: &str, name: &str) -> bool {
        let (key, by) = (key(namespace, name), Writer::new(SOMEBODY));
        self.shared.store().delete(kind, &key, &Value::Null, &by).is_ok()
    }

    /// How many requests there were, by HTTP method (`PATCH`) or by verb (`watch`).
    #[must_use]
    pub(crate) fn count(&self, method: &str, kind: Kind) -> u64 {
        let desk = self.shared.desk();
        desk.counts.get(&(method.to_owned(), Some(kind))).copied().unwrap_or_default()
    }

    /// The requests since the last reset, in order.
    #[must_use]
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.desk().calls.clone()
    }

    /// Forgets the requests, the counts, and how many were in flight.
    pub(crate) fn reset_calls(&self) {
        let mut desk = self.shared.desk();
        desk.first_call += desk.calls.len() as u64;
        desk.calls.clear();
        desk.counts.clear();
        desk.most_in_flight = 0;
    }

    /// Whether requests are kept one by one; they are, unless it is told otherwise.
    pub(crate) fn record_calls(&self, record: bool) {
        self.shared.desk().records_calls = record;
    }

    /// How many watches there are now, silent ones too.
    #[must_use]
    pub(crate) fn watches_open(&self) -> usize {
        self.shared.store().watches_open()
    }

    /// How many requests but watches there were at once.
    #[must_use]
    pub(crate) fn most_in_flight(&self) -> usize {
        self.shared.desk().most_in_flight
    }

    // How it is set up.

    /// Whoever has this token is `user` and may do what a rule allows. From the first
    /// call on nobody may do anything without a rule.
    pub(crate) fn allow(&self, token: &str, user: &str, rules: &[Rule]) {
        let entry = (user.to_owned(), rules.to_vec());
        self.shared.desk().users.insert(token.to_owned(), entry);
    }

    /// How long a namespace is terminating before all in it vanishes; 20 ms at first.
    pub(crate) fn terminating_for(&self, duration: Duration) {
        self.shared.store().terminating = duration;
    }

    /// How long a namespace waits for its service account; 20 ms at first.
    pub(crate) fn account_delay(&self, delay: Duration) {
        self.shared.store().account_delay = delay;
    }

    /// How many events are remembered; 100,000 at first.
    pub(crate) fn longest_history(&self, events: usize) {
        self.shared.store().longest_history = events;
    }

    /// How often watches that start from now on get a bookmark; each minute at first.
    pub(crate) fn bookmark_every(&self, interval: Duration) {
        self.shared.desk().bookmark_every = interval;
    }

    /// Sends a bookmark to all watches that want them.
    pub(crate) fn bookmark(&self) {
        self.shared.store().bookmark(None);
    }

    // What goes wrong.

    /// Answers the next `n` requests that match so, whatever they are.
    pub(crate) fn answer_next(
        &self,
        n: u64,
        matching: impl Fn(&str, &str, &str) -> bool + Send + 'static,
        status: u16,
        headers: &[(&str, &str)],
        body: &str,
    ) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let answer = Canned { status, headers: headers.collect(), body: body.to_owned() };
        let matching = Box::new(matching);
        self.shared.desk().faults.push(Fault { left: n, matching, answer: Some(answer) });
    }

    /// Never answers what matches, until [`Self::calm`]; what hangs by then hangs on.
    pub(crate) fn hang(&self, matching: impl Fn(&str, &str, &str) -> bool + Send + 'static) {
        let matching = Box::new(matching);
        self.shared.desk().faults.push(Fault { left: u64::MAX, matching, answer: None });
    }

    /// More requests than this at once, watches aside, are answered with 429.
    pub(crate) fn limit(&self, in_flight: usize) {
        self.shared.desk().limit = in_flight;
    }

    /// Every answer takes so long. What was asked has been done by then.
    pub(crate) fn delay(&self, duration: Duration) {
        self.shared.desk().delay = duration;
    }

    /// Nothing goes wrong any more: ends what the four above have begun.
    pub(crate) fn calm(&self) {
        let mut desk = self.shared.desk();
        desk.faults.clear();
        desk.limit = usize::MAX;
        desk.delay = Duration::ZERO;
    }

    /// Forgets the history: what wants to go on from before gets 410.
    pub(crate) fn compact(&self) {
        self.shared.store().compact();
    }

    /// Open watches stay open and are told nothing any more, as if the connection
    /// were dead.
    pub(crate) fn silence_watches(&self) {
        self.shared.store().silence_watches();
    }

    /// Closes all connections at once.
    pub(crate) fn cut(&self) {
        let connections = std::mem::take(&mut self.shared.desk().connections);
        for connection in connections.into_values() {
            connection.abort();
        }
    }

    /// Refuses connections. The state stays; for a server that lost its history, call
    /// [`Self::compact`] meanwhile.
    pub(crate) fn down(&self) {
        let accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(accepting) = accepting {
            accepting.abort();
            while !accepting.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.cut();
    }

    /// Listens again, on the same port.
    ///
    /// # Errors
    ///
    /// If somebody else has taken the port meanwhile.
    pub(crate) fn up(&self) -> Result<()> {
        self.listen(TcpListener::bind(self.address)?)
    }

    fn listen(&self, listener: TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        let _inside = self.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let task = self.runtime.spawn(server::accept(self.shared.clone(), listener));
        *self.accepting.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, its message has been on stderr.
            drop(thread.join());
        }
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

fn place(value: &Value) -> Result<(Kind, Key)> {
    let metadata = &value["metadata"];
    let (kind, name) = (store::text(&value["kind"]), store::text(&metadata["name"]));
    let kind = Kind::ALL.into_iter().find(|it| it.name() == kind);
    let kind = kind.with_context(|| format!("of no kind: {value}"))?;
    Ok((kind, key(store::text(&metadata["namespace"]), name)))
}

fn refused(refusal: &Refusal) -> anyhow::Error {
    anyhow!("{}", refusal.body())
}
