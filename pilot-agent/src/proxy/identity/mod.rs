//! Our identity: where it comes from, and everybody who is served with it.
//!
//! The source is chosen once ([`choice`]) and followed for ever. From it come the secrets of either
//! data plane, SDS for other programs of the Pod ([`pod_socket`]), and files ([`output`]).

mod ca;
mod choice;
mod files;
mod mesh_roots;
mod output;
mod pod_socket;
mod probe;
mod selected;

use std::sync::Arc;

use ithildin_istiod::ca::CaSource;
use ithildin_panics::essential;
use ithildin_spiffe::{
    IdentityState, Provider, Source,
    workload_api::{SourceOptions, WorkloadApiSource},
};
use ithildin_xds::{
    LocalSecrets, SdsOptions, SdsServer, SecretFeeds,
    sds::{ExtraRoots, FileOptions},
};
use tokio::{sync::watch, task::JoinSet};
use tracing::info;

use self::{choice::Chosen, files::FileSource, output::Output};
use super::settings::Settings;

pub(super) use choice::Demand;

/// The identity under way. It is followed until this is dropped.
pub(super) struct Identity {
    provider: Arc<dyn Provider>,
    state: watch::Receiver<IdentityState>,
    feeds: SecretFeeds,
    options: SdsOptions,
    /// In one's own words, for logs.
    source: String,
    /// Roots that istiod adds to its own.
    mesh_roots: watch::Sender<ExtraRoots>,
    tasks: JoinSet<()>,
}

/// A source, with the secrets that come from files instead.
struct Followed {
    provider: Arc<dyn Provider>,
    state: watch::Receiver<IdentityState>,
    feeds: SecretFeeds,
}

impl Identity {
    /// Chooses the source and starts to follow it. Needs a tokio runtime.
    ///
    /// # Errors
    /// When nothing names a source, or istiod's CA cannot be called as the settings say.
    pub(super) fn start(settings: &Settings) -> anyhow::Result<Self> {
        let facts = probe::facts(settings)?;
        let choice = facts.choose()?;
        info!(
            source = %choice.source,
            why = choice.why,
            otherwise = choice.otherwise,
            "the identity's source is chosen, and stays until a restart"
        );
        let options = sds_options(settings, &choice.source);
        let mesh_roots = watch::Sender::default();
        let extra = mesh_roots.subscribe();
        let followed = follow(settings, &choice.source, &options.files, extra)?;
        let mut identity = Self {
            provider: followed.provider,
            state: followed.state,
            feeds: followed.feeds,
            options,
            source: choice.source.to_string(),
            mesh_roots,
            tasks: JoinSet::new(),
        };
        identity.serve_others(settings, &facts, &choice.source);
        Ok(identity)
    }

    /// Trusts what istiod hands out for the mesh, PEM, beside its own roots. SPIRE's bundles are not
    /// added to: it knows whom it federates with.
    pub(super) fn follow_mesh_roots(&mut self, pem: Option<watch::Receiver<Arc<[String]>>>) {
        if let Some(pem) = pem {
            let roots = self.mesh_roots.clone();
            let following = mesh_roots::follow(pem, roots);
            self.tasks.spawn(essential("roots of the mesh", following));
        }
    }

    /// What the source says, now and later.
    pub(super) fn state(&self) -> watch::Receiver<IdentityState> {
        self.state.clone()
    }

    /// The secrets for a data plane in this process.
    pub(super) fn local(&self) -> LocalSecrets {
        LocalSecrets::new(self.state(), self.options.clone(), self.feeds.clone())
    }

    /// The secrets for a data plane outside.
    pub(super) fn sds(&self) -> SdsServer {
        SdsServer::new(Arc::clone(&self.provider), self.options.clone())
            .with_feeds(self.feeds.clone())
    }

    fn serve_others(&mut self, settings: &Settings, facts: &choice::Facts, source: &Chosen) {
        let expected = settings.identity.trust_domain.clone();
        let selector = self.options.svid.clone();
        self.tasks
            .spawn(selected::tell(self.state(), selector, expected));
        if let Some(folder) = &settings.ca.output {
            let output = Output::new(folder, settings.identity.in_kubernetes);
            let following = output.follow(self.local());
            self.tasks.spawn(essential("OUTPUT_CERTS", following));
        }
        let at_the_path = match source {
            Chosen::WorkloadApi(endpoint) => pod_socket::is_at(endpoint, &facts.workload_socket),
            Chosen::Files(_) | Chosen::Istiod(_) => false,
        };
        if !at_the_path {
            let server = pod_socket::PodSocket {
                path: facts.workload_socket.clone(),
                create_folder: facts.istiod,
                source: self.source.clone(),
            };
            let serving = server.serve(self.sds());
            self.tasks.spawn(essential("SDS of the Pod", serving));
        }
    }
}

fn sds_options(settings: &Settings, source: &Chosen) -> SdsOptions {
    let crl = match source {
        // The CRLs beside istiod's root are of its own CA; SPIRE sends its own.
        Chosen::WorkloadApi(_) => None,
        Chosen::Files(_) | Chosen::Istiod(_) => ca::crl(settings),
    };
    SdsOptions {
        files: FileOptions {
            settle: settings.ca.debounce,
            crl,
        },
        ..settings.sds.clone()
    }
}

fn follow(
    settings: &Settings,
    source: &Chosen,
    files: &FileOptions,
    extra: watch::Receiver<ExtraRoots>,
) -> anyhow::Result<Followed> {
    Ok(match source {
        Chosen::WorkloadApi(endpoint) => {
            let source = WorkloadApiSource::start(endpoint.clone(), SourceOptions::default());
            Followed {
                state: source.subscribe(),
                provider: source,
                feeds: SecretFeeds::default(),
            }
        }
        Chosen::Files(identity) => {
            let feeds = identity.follow(files, extra);
            let source = Arc::new(FileSource::start(&feeds));
            Followed {
                state: source.subscribe(),
                provider: source,
                feeds,
            }
        }
        Chosen::Istiod(identity) => {
            let (endpoint, options) = (ca::endpoint(settings)?, ca::options(settings)?);
            let source = CaSource::start(endpoint, options, extra.clone());
            Followed {
                state: source.subscribe(),
                provider: source,
                feeds: identity.follow(files, extra),
            }
        }
    })
}
