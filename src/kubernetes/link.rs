//! A client of one cluster, made when it is needed and made anew when it is no good.

use std::sync::Arc;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::Mutex;

use super::Access;
use super::gate::{Count, Gate};
use super::refusal::Refusal;
use crate::clock::Clock;

/// The way to one cluster.
pub struct Link {
    access: Access,
    clock: Clock,
    gate: Gate,
    /// Signing in can take a program's time, which one is to wait for, and the others with it.
    client: Mutex<Option<Client>>,
    /// The only one there is, in tests.
    #[cfg(test)]
    given: Option<Client>,
}

impl Link {
    /// A way that nobody has gone yet.
    #[must_use]
    pub fn new(access: Access, clock: Clock, count: Count) -> Arc<Self> {
        let gate = Gate::new(clock.clone(), count);
        Arc::new(Self {
            access,
            clock,
            gate,
            client: Mutex::default(),
            #[cfg(test)]
            given: None,
        })
    }

    /// A way through a service, for tests.
    #[cfg(test)]
    pub(crate) fn through<S, B>(service: S, clock: &Clock) -> Arc<Self>
    where
        S: tower::Service<hyper::Request<kube::client::Body>, Response = hyper::Response<B>>
            + Send
            + 'static,
        S::Future: Send + 'static,
        S::Error: Into<tower::BoxError> + Send + 'static,
        B: hyper::body::Body<Data = hyper::body::Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let gate = Gate::new(clock.clone(), Arc::new(|_, _| {}));
        let client = ClientBuilder::new(service, "default").with_layer(&gate).build();
        let (access, clock) = (Access::default(), clock.clone());
        Arc::new(Self { access, clock, gate, client: Mutex::default(), given: Some(client) })
    }

    /// How the cluster is reached.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// Does something in the cluster, within `limit`.
    ///
    /// # Errors
    ///
    /// If it is not done.
    pub async fn call<T, F>(
        &self,
        limit: Duration,
        work: impl FnOnce(Client) -> F + Send,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = kube::Result<T>> + Send,
    {
        let limited = tokio::time::timeout(limit, async {
            let client = self.client().await?;
            work(client).await.map_err(Refusal::from)
        });
        let result = self.clock.attend(limited).await.unwrap_or(Err(Refusal::TimedOut(limit)));
        if let Err(
            Refusal::Access(_)
            | Refusal::Unknown(_)
            | Refusal::Unreachable(_)
            | Refusal::TimedOut(_),
        ) = &result
        {
            // The kubeconfig, or what it names, may be another one by now.
            *self.client.lock().await = None;
        }
        result
    }

    async fn client(&self) -> Result<Client, Refusal> {
        #[cfg(test)]
        if let Some(client) = &self.given {
            return Ok(client.clone());
        }
        let mut known = self.client.lock().await;
        if let Some(client) = &*known {
            return Ok(client.clone());
        }
        let mut config = self.config().await?;
        // It repeats at once what the gate is to hold back.
        config.default_retry = false;
        let builder = ClientBuilder::try_from(config)?;
        let client = builder.with_layer(&self.gate).build();
        Ok(known.insert(client).clone())
    }

    async fn config(&self) -> Result<Config, Refusal> {
        let Access { kubeconfig, context } = &self.access;
        let options = KubeConfigOptions { context: context.clone(), ..Default::default() };
        let is_in_a_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        if let Some(path) = kubeconfig {
            let bad = |error: &dyn std::fmt::Display| {
                Refusal::Access(format!("the kubeconfig {}: {error}", path.display()))
            };
            let file = Kubeconfig::read_from(path).map_err(|error| bad(&error))?;
            let config = Config::from_custom_kubeconfig(file, &options).await;
            return config.map_err(|error| bad(&error));
        }
        if is_in_a_pod && context.is_none() {
            let config = Config::incluster();
            return config
                .map_err(|error| Refusal::Access(format!("the pod's service account: {error}")));
        }
        let config = Config::from_kubeconfig(&options).await;
        config.map_err(|error| Refusal::Access(format!("the kubeconfig: {error}")))
    }
}

/// How long a call may take that is neither a long list nor a watch.
pub const CALL_LIMIT: Duration = Duration::from_secs(15);
