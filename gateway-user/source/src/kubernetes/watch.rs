//! One kind: a list, then every change, again and again.

use std::{fmt, pin::pin, time::Duration};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DynamicObject, PartialObjectMeta},
    runtime::watcher::{self, Event, InitialListStrategy},
};
use nodegate_resources::{
    manifest::{LastAccepted, Manifest},
    object::Body,
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time};

use super::{
    custom,
    interest::{Objects, Wanted, WantedKind},
    trim,
    trouble::Trouble,
};

/// How soon a failure is followed by another attempt; each further one waits twice as long.
const SOONEST: Duration = Duration::from_millis(200);

/// How long an attempt waits at most.
const LATEST: Duration = Duration::from_secs(10);

/// What a watch tells the ledger.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) wanted: Wanted,
    /// That of the watch.
    pub(super) epoch: u64,
    pub(super) news: News,
}

/// What is new of a kind.
#[derive(Debug)]
pub(super) enum News {
    /// All objects are about to be told.
    Begins,
    /// An object, at that, or as it is since a change.
    Object(Box<Found>),
    /// All have been told since [`News::Begins`].
    Complete,
    /// An object is gone.
    Gone {
        namespace: String,
        name: String,
        version: Option<u64>,
    },
    /// Nothing is heard for now.
    Trouble(Trouble),
}

/// An object that the API server gave.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: WantedKind,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) manifest: Manifest,
    /// Of its kind, later ones are higher; none where it is no number, or from disk.
    pub(super) version: Option<u64>,
    /// What the API server said, of objects that say more than what their type holds.
    pub(super) json: Option<serde_json::Value>,
}

/// A watch in progress.
struct Watch {
    client: Client,
    wanted: Wanted,
    epoch: u64,
    reports: mpsc::Sender<Report>,
    /// Failures in a row.
    failures: u32,
    strategy: InitialListStrategy,
}

/// Nobody listens any more.
struct Over;

/// Tells of everything that is wanted, until nobody listens.
pub(super) async fn follow(
    client: Client,
    wanted: Wanted,
    epoch: u64,
    reports: mpsc::Sender<Report>,
) {
    let mut watch = Watch {
        client,
        wanted,
        epoch,
        reports,
        failures: 0,
        strategy: InitialListStrategy::StreamingList,
    };
    while watch.round().await.is_ok() {}
}

/// Numbers by the API server's promise since 1.35 (KEP-5504), and since ever in fact.
fn version(object: &impl kube::ResourceExt) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

// === impl Watch ===

impl Watch {
    /// One list and what follows, until that makes no sense any more.
    async fn round(&mut self) -> Result<(), Over> {
        let client = self.client.clone();
        match self.wanted.kind {
            WantedKind::Service => {
                let body = |object| Body::Service(Box::new(trim::service(object)));
                self.typed(Api::all(client), body).await
            }
            WantedKind::EndpointSlice => {
                let body = |object| Body::EndpointSlice(Box::new(trim::endpoint_slice(object)));
                self.typed(Api::all(client), body).await
            }
            WantedKind::Node => self.nodes().await,
            WantedKind::Pod => {
                let body = |object: PartialObjectMeta<Pod>| {
                    Body::Pod(Box::new(Pod {
                        metadata: trim::metadata(object.metadata),
                        ..Pod::default()
                    }))
                };
                self.typed(Api::all(client), body).await
            }
            WantedKind::Secret => {
                let body = |object| Body::Secret(Box::new(trim::secret(object)));
                let api = match &self.wanted.objects {
                    Objects::One { namespace, .. } => Api::namespaced(client, namespace),
                    Objects::All | Objects::Metadata => Api::all(client),
                };
                self.typed(api, body).await
            }
            WantedKind::Gateway
            | WantedKind::VirtualService
            | WantedKind::DestinationRule
            | WantedKind::ServiceEntry
            | WantedKind::WorkloadEntry
            | WantedKind::AuthorizationPolicy
            | WantedKind::RequestAuthentication => self.custom().await,
        }
    }

    async fn nodes(&mut self) -> Result<(), Over> {
        let client = self.client.clone();
        if self.wanted.objects == Objects::Metadata {
            let body = |object: PartialObjectMeta<Node>| {
                Body::Node(Box::new(trim::node(Node {
                    metadata: object.metadata,
                    ..Node::default()
                })))
            };
            return self.typed(Api::all(client), body).await;
        }
        let body = |object| Body::Node(Box::new(trim::node(object)));
        self.typed(Api::all(client), body).await
    }

    /// Objects of Kubernetes itself.
    async fn typed<K>(&mut self, api: Api<K>, body: fn(K) -> Body) -> Result<(), Over>
    where
        K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
    {
        let kind = self.wanted.kind;
        let found = move |object: K| {
            let version = version(&object);
            let body = body(object);
            let metadata = body.metadata();
            Some(Found {
                kind,
                namespace: metadata.namespace.clone().unwrap_or_default(),
                name: metadata.name.clone().unwrap_or_default(),
                manifest: Manifest::of_body(body),
                version,
                json: None,
            })
        };
        self.watch(api, found).await
    }

    /// Objects of a custom resource's definition, in the newest version that the cluster has.
    async fn custom(&mut self) -> Result<(), Over> {
        let resource = match custom::served(&self.client, self.wanted.kind.resource()).await {
            Ok(Some(resource)) => resource,
            Ok(None) => return self.trouble(Trouble::NoSuchKind).await,
            Err(error) => return self.trouble(Trouble::of_client(&error)).await,
        };
        let kind = self.wanted.kind;
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
        let types = kube::core::TypeMeta {
            api_version: resource.api_version.clone(),
            kind: resource.kind.clone(),
        };
        let found = move |mut object: DynamicObject| {
            let namespace = object.namespace().unwrap_or_default();
            let name = object.name_any();
            let version = version(&object);
            object.metadata = trim::metadata(object.metadata);
            object.types = Some(types.clone());
            let mut accepted = None;
            if let Some(fields) = object.data.as_object_mut()
                && let Some(mut status) = fields.remove("status")
            {
                accepted = status
                    .get_mut(LastAccepted::FIELD)
                    .and_then(|field| serde_json::from_value(field.take()).ok());
            }
            let json = serde_json::to_value(&object).ok()?;
            let value = serde_yaml::to_value(&json).ok()?;
            let read = |value| Manifest::of_value(kind.resource(), &namespace, &name, value);
            let manifest = match accepted {
                Some(accepted) => read(value.clone()).falling_back_on(accepted, value),
                None => read(value),
            };
            Some(Found {
                kind,
                namespace,
                name,
                manifest,
                version,
                json: Some(json),
            })
        };
        self.watch(api, found).await
    }

    async fn watch<K>(
        &mut self,
        api: Api<K>,
        found: impl Fn(K) -> Option<Found>,
    ) -> Result<(), Over>
    where
        K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
    {
        let mut events = pin!(watcher::watcher(api, self.config()));
        loop {
            let Some(event) = events.next().await else {
                return Ok(());
            };
            let news = match event {
                Ok(Event::Init) => News::Begins,
                Ok(Event::InitDone) => News::Complete,
                Ok(Event::InitApply(object) | Event::Apply(object)) => match found(object) {
                    Some(found) => News::Object(Box::new(found)),
                    None => continue,
                },
                Ok(Event::Delete(object)) => News::Gone {
                    namespace: object.namespace().unwrap_or_default(),
                    name: object.name_any(),
                    version: version(&object),
                },
                // The version that we know is too old; a new list follows.
                Err(watcher::Error::WatchError(status)) if status.code == 410 => continue,
                Err(error) => {
                    if self.has_no_streaming_lists(&error) {
                        self.strategy = InitialListStrategy::ListWatch;
                        return Ok(());
                    }
                    // A server that was away may come back with an older state, in which the version that we
                    // know is yet to come: a watch from there would be silent. Nor would one that goes on say
                    // that it does, before something changes. So all is listed anew.
                    return self.trouble(Trouble::of(&error)).await;
                }
            };
            self.failures = 0;
            self.tell(news).await?;
        }
    }

    fn config(&self) -> watcher::Config {
        let config = watcher::Config {
            initial_list_strategy: self.strategy.clone(),
            ..watcher::Config::default()
        };
        match &self.wanted.objects {
            Objects::All | Objects::Metadata => config,
            Objects::One { name, .. } => config.fields(&format!("metadata.name={name}")),
        }
    }

    /// Whether the server is older than streaming lists, or has them off (the `WatchList` feature gate).
    fn has_no_streaming_lists(&self, error: &watcher::Error) -> bool {
        self.strategy == InitialListStrategy::StreamingList
            && matches!(
                error,
                watcher::Error::WatchStartFailed(kube::Error::Api(status))
                    if matches!(status.code, 400 | 422)
            )
    }

    async fn trouble(&mut self, trouble: Trouble) -> Result<(), Over> {
        let delay = SOONEST
            .saturating_mul(1 << self.failures.min(10))
            .min(LATEST);
        self.failures = self.failures.saturating_add(1);
        self.tell(News::Trouble(trouble)).await?;
        // Nodes that lost their server at one moment shall not all be back at one moment.
        time::sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        Ok(())
    }

    async fn tell(&self, news: News) -> Result<(), Over> {
        let wanted = self.wanted.clone();
        let report = Report {
            wanted,
            epoch: self.epoch,
            news,
        };
        self.reports.send(report).await.map_err(|_| Over)
    }
}
