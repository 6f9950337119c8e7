//! What each audience is told, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustls_pki_types::CertificateRevocationListDer;
use tokio::sync::watch;

use super::{
    AuthorityError,
    provider::Audience,
    server::{Server, Workload},
    state::State,
};
use crate::{IdentitySnapshot, IdentityState, JwtBundles, JwtSvid, SpiffeId, TrustDomain};

/// So many audiences are kept without asking whether anybody listens still.
const MANY_OUTLETS: usize = 64;

/// Where one audience listens.
pub(super) struct Outlet {
    x509: watch::Sender<IdentityState>,
    jwt: watch::Sender<Option<Arc<JwtBundles>>>,
}

/// The CRLs by trust domain; none for a domain that revoked nothing.
type Crls = BTreeMap<TrustDomain, Vec<CertificateRevocationListDer<'static>>>;

impl State {
    /// Tells each audience what changed for it; forgets those that nobody listens for.
    pub(super) fn publish(&mut self) -> Result<(), AuthorityError> {
        self.forget_unheard();
        let outlets = std::mem::take(&mut self.outlets);
        let crls = self.crls()?;
        for (audience, outlet) in &outlets {
            let state = self.identities(audience, &crls);
            outlet.x509.send_if_modified(|current| {
                let changed = match (&*current, &state) {
                    (IdentityState::Ready(old), IdentityState::Ready(new)) => old != new,
                    (IdentityState::Withdrawn(_), IdentityState::Withdrawn(_)) => false,
                    _ => true,
                };
                if changed {
                    *current = state;
                }
                changed
            });
            let bundles = self.jwt_bundles(audience);
            outlet.jwt.send_if_modified(|current| {
                let changed = *current != bundles;
                *current = bundles;
                changed
            });
        }
        self.outlets = outlets;
        Ok(())
    }

    pub(super) fn subscribe(
        &mut self,
        audience: Audience,
    ) -> (
        watch::Receiver<IdentityState>,
        watch::Receiver<Option<Arc<JwtBundles>>>,
    ) {
        if !self.outlets.contains_key(&audience) {
            // Callers come and go between two changes, each process another one. The cost of each
            // look through all of them is shared by as many that come.
            if self.outlets.len() >= MANY_OUTLETS && self.outlets.len().is_power_of_two() {
                self.forget_unheard();
            }
            let outlet = Outlet {
                x509: watch::Sender::new(match self.crls() {
                    Ok(crls) => self.identities(&audience, &crls),
                    Err(error) => IdentityState::Withdrawn(error.to_string().into()),
                }),
                jwt: watch::Sender::new(self.jwt_bundles(&audience)),
            };
            self.outlets.insert(audience.clone(), outlet);
        }
        let outlet = &self.outlets[&audience];
        (outlet.x509.subscribe(), outlet.jwt.subscribe())
    }

    fn forget_unheard(&mut self) {
        self.outlets.retain(|_, outlet| {
            outlet.x509.receiver_count() > 0 || outlet.jwt.receiver_count() > 0
        });
    }

    pub(super) fn mint_jwt(
        &self,
        audience: &Audience,
        audiences: &[String],
        id: Option<&SpiffeId>,
    ) -> Vec<JwtSvid> {
        let Some((server, workloads)) = self.workloads(audience) else {
            return Vec::new();
        };
        workloads
            .into_iter()
            .filter(|workload| id.is_none_or(|id| workload.config().id == *id))
            .filter_map(|workload| server.mint_jwt(workload.config(), audiences))
            .collect()
    }

    /// The CRLs by trust domain; none for a domain that revoked nothing.
    fn crls(&mut self) -> Result<Crls, AuthorityError> {
        let mut crls = Crls::new();
        for server in self.servers.values_mut() {
            let trust_domain = server.trust_domain().clone();
            let roots = self.roots.get_mut(server.root_name());
            let roots = roots.expect("each server has its root");
            let mut cas: Vec<_> = roots.published_mut().chain(server.signers_mut()).collect();
            if !cas.iter().any(|ca| ca.has_revoked()) {
                continue;
            }
            let own = crls.entry(trust_domain).or_default();
            for ca in &mut cas {
                let crl = ca.crl()?;
                if !own.contains(&crl) {
                    own.push(crl);
                }
            }
        }
        Ok(crls)
    }

    fn identities(&self, audience: &Audience, crls: &Crls) -> IdentityState {
        let withdrawn = |reason: &str| IdentityState::Withdrawn(reason.into());
        let Some((server, workloads)) = self.workloads(audience) else {
            return withdrawn("no identity issued");
        };
        let own = server.trust_domain();
        let mut bundles = BTreeMap::new();
        for trust_domain in self.visible(own, &workloads) {
            if let Ok(bundle) = self.bundle(&trust_domain) {
                bundles.insert(trust_domain, Arc::new(bundle));
            }
        }
        let crls = bundles
            .keys()
            .filter_map(|trust_domain| crls.get(trust_domain));
        let crls = crls.flatten().cloned().collect();
        let svids = workloads.iter().map(|workload| workload.svid()).collect();
        match IdentitySnapshot::new(svids, bundles, crls) {
            Ok(snapshot) => IdentityState::Ready(Arc::new(snapshot)),
            Err(error) => withdrawn(&error.to_string()),
        }
    }

    fn jwt_bundles(&self, audience: &Audience) -> Option<Arc<JwtBundles>> {
        let (server, workloads) = self.workloads(audience)?;
        let visible = self.visible(server.trust_domain(), &workloads);
        let servers = self.servers.values();
        let servers = servers.filter(|server| visible.contains(server.trust_domain()));
        let bundles = servers.map(|server| (server.trust_domain().clone(), server.jwt_bundle()));
        Some(Arc::new(bundles.collect()))
    }

    /// Who the audience is, if anybody.
    fn workloads(&self, audience: &Audience) -> Option<(&Server, Vec<&Workload>)> {
        let server = self.servers.get(audience.authority())?;
        let workloads: Vec<_> = server
            .workloads()
            .filter(|workload| audience.is(workload.config()))
            .collect();
        (!workloads.is_empty()).then_some((server, workloads))
    }

    /// The trust domains whose bundles workloads of `own` get.
    fn visible(&self, own: &TrustDomain, workloads: &[&Workload]) -> BTreeSet<TrustDomain> {
        let wanted = |trust_domain: &TrustDomain| {
            workloads.iter().any(|workload| {
                let federates_with = workload.config().federates_with.as_ref();
                federates_with.is_none_or(|wanted| wanted.contains(trust_domain))
            })
        };
        let federated = self.federation.iter().filter(|(who, _)| who == own);
        let federated = federated.map(|(_, whom)| whom).filter(|whom| wanted(whom));
        federated.cloned().chain([own.clone()]).collect()
    }
}
