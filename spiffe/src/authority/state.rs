//! What the authority holds, and each change of it. A change is complete before it is published (see
//! `publish`), so nobody sees half of one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, SystemTime},
};

use super::{
    AuthorityConfig, AuthorityError, WorkloadConfig,
    ca::Serial,
    forge::{self, Forged, Forgery},
    leaf::{Issued, LeafRequest, issue},
    provider::Audience,
    publish::Outlet,
    roots::{RootName, RootSet},
    server::Server,
};
use crate::{SpiffeId, TrustDomain, X509Bundle, X509Svid};

/// SPIRE prepares a new CA at half of the old one's life ...
const PREPARE_SHARE: f64 = 0.5;
/// ... and activates it when a sixth is left.
const ACTIVATE_SHARE: f64 = 5.0 / 6.0;

pub(super) struct State {
    pub(super) servers: BTreeMap<String, Server>,
    pub(super) roots: BTreeMap<RootName, RootSet>,
    /// (who, whom): the workloads of `who` get the bundle of `whom`.
    pub(super) federation: BTreeSet<(TrustDomain, TrustDomain)>,
    /// Bundles of trust domains that others issue for.
    foreign: BTreeMap<TrustDomain, X509Bundle>,
    pub(super) outlets: HashMap<Audience, Outlet>,
}

impl State {
    pub(super) fn new(config: AuthorityConfig) -> Result<Self, AuthorityError> {
        let mut roots = BTreeMap::new();
        let mut servers = BTreeMap::new();
        for domain in config.trust_domains {
            let name = domain.authority().to_owned();
            let root_name = RootName::of(&domain);
            if !roots.contains_key(&root_name) {
                roots.insert(root_name.clone(), RootSet::new(&domain)?);
            }
            let server = Server::new(domain, &roots[&root_name])?;
            servers.insert(name, server);
        }
        let mut federation = BTreeSet::new();
        for (a, b) in config.federation {
            federation.insert((a.clone(), b.clone()));
            federation.insert((b, a));
        }
        Ok(Self {
            servers,
            roots,
            federation,
            foreign: BTreeMap::new(),
            outlets: HashMap::new(),
        })
    }

    pub(super) fn server(&self, name: &str) -> Result<&Server, AuthorityError> {
        self.servers
            .get(name)
            .ok_or_else(|| unknown_authority(&self.servers, name))
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = (&str, &Server, &RootSet)> {
        let servers = self.servers.iter();
        servers.map(|(name, server)| (name.as_str(), server, &self.roots[server.root_name()]))
    }

    pub(super) fn grant(
        &mut self,
        name: &str,
        workload: WorkloadConfig,
    ) -> Result<(), AuthorityError> {
        let (server, roots) = self.server_mut(name)?;
        workload.check(server.trust_domain())?;
        server.grant(workload, roots)
    }

    pub(super) fn withdraw(&mut self, name: &str, id: &SpiffeId) -> Result<(), AuthorityError> {
        let (server, _) = self.server_mut(name)?;
        server.withdraw(id)
    }

    pub(super) fn rotate_leaf(
        &mut self,
        name: &str,
        id: Option<&SpiffeId>,
    ) -> Result<(), AuthorityError> {
        let (server, roots) = self.server_mut(name)?;
        match id {
            Some(id) => server.renew(id, roots),
            None => server.renew_all(roots),
        }
    }

    pub(super) fn rotate_intermediate(&mut self, name: &str) -> Result<(), AuthorityError> {
        let (server, roots) = self.server_mut(name)?;
        if !server.has_intermediate() {
            return Err(AuthorityError::NoIntermediate(name.to_owned()));
        }
        server.renew_signer(roots)
    }

    pub(super) fn prepare_root(&mut self, name: &str) -> Result<(), AuthorityError> {
        let root = self.server(name)?.root_name().clone();
        self.root_mut(&root).prepare()
    }

    pub(super) fn activate_root(&mut self, name: &str) -> Result<(), AuthorityError> {
        let root = self.server(name)?.root_name().clone();
        if !self.root_mut(&root).activate() {
            return Err(AuthorityError::NoPreparedRoot(name.to_owned()));
        }
        self.renew_below(&root)
    }

    pub(super) fn drop_old_roots(&mut self, name: &str) -> Result<(), AuthorityError> {
        let root = self.server(name)?.root_name().clone();
        self.root_mut(&root).drop_old();
        Ok(())
    }

    pub(super) fn trust(
        &mut self,
        who: &TrustDomain,
        whom: &TrustDomain,
    ) -> Result<(), AuthorityError> {
        self.bundle(who)?;
        self.bundle(whom)?;
        self.federation.insert((who.clone(), whom.clone()));
        Ok(())
    }

    pub(super) fn distrust(
        &mut self,
        who: &TrustDomain,
        whom: &TrustDomain,
    ) -> Result<(), AuthorityError> {
        self.bundle(who)?;
        self.federation.remove(&(who.clone(), whom.clone()));
        Ok(())
    }

    pub(super) fn set_foreign_bundle(&mut self, bundle: X509Bundle) {
        self.foreign.insert(bundle.trust_domain.clone(), bundle);
    }

    /// The roots of every authority of the trust domain. What we issue for, nobody else defines.
    pub(super) fn bundle(&self, trust_domain: &TrustDomain) -> Result<X509Bundle, AuthorityError> {
        let mut roots = Vec::new();
        for (_, server, root) in self.servers() {
            if server.trust_domain() == trust_domain {
                let news = root.published().map(|ca| &ca.certificate);
                let news: Vec<_> = news
                    .filter(|root| !roots.contains(*root))
                    .cloned()
                    .collect();
                roots.extend(news);
            }
        }
        if !roots.is_empty() {
            return Ok(X509Bundle {
                trust_domain: trust_domain.clone(),
                roots,
            });
        }
        let foreign = self.foreign.get(trust_domain);
        foreign
            .cloned()
            .ok_or_else(|| AuthorityError::UnknownTrustDomain(trust_domain.clone()))
    }

    /// A serial number is random, so each CA may list it, whoever issued it.
    pub(super) fn revoke(&mut self, name: &str, serial: &Serial) -> Result<(), AuthorityError> {
        let (server, roots) = self.server_mut(name)?;
        roots
            .published_mut()
            .chain(server.signers_mut())
            .for_each(|ca| ca.revoke(serial.clone()));
        Ok(())
    }

    pub(super) fn serial(&self, name: &str, id: &SpiffeId) -> Result<Serial, AuthorityError> {
        Ok(self.server(name)?.workload(id)?.serial().clone())
    }

    pub(super) fn mint(
        &self,
        name: &str,
        id: &SpiffeId,
        ttl: Option<Duration>,
        dns: &[String],
    ) -> Result<X509Svid, AuthorityError> {
        let server = self.server(name)?;
        server.check_own(id)?;
        let request = LeafRequest {
            id,
            dns,
            hint: None,
            ttl: ttl.unwrap_or(server.svid_ttl()),
        };
        let signer = server.signer(&self.roots[server.root_name()]);
        let Issued { svid, .. } = issue(&signer, &request)?;
        Ok(svid)
    }

    pub(super) fn forge(
        &mut self,
        name: &str,
        id: &SpiffeId,
        forgery: Forgery,
    ) -> Result<Forged, AuthorityError> {
        let server = self.server(name)?;
        let signer = server.signer(&self.roots[server.root_name()]);
        Ok(forge::forge(&signer, id, server.svid_ttl(), forgery)?)
    }

    /// When something is due next.
    pub(super) fn next_rotation(&self) -> SystemTime {
        let leaves = self.servers.values().filter_map(Server::next_renewal);
        let roots = self.roots.values().map(root_due);
        let signers = self.servers.values();
        let signers =
            signers.filter_map(|server| Some(server.intermediate()?.lived_at(PREPARE_SHARE)));
        let due = leaves.chain(roots).chain(signers).min();
        due.expect("an authority has a root")
    }

    /// Renews what is due; says whether anything was.
    pub(super) fn rotate_due(&mut self, now: SystemTime) -> Result<bool, AuthorityError> {
        let mut changed = false;
        let due: Vec<_> = self
            .roots
            .iter()
            .filter(|(_, root)| root_due(root) <= now)
            .collect();
        let due: Vec<_> = due.into_iter().map(|(name, _)| name.clone()).collect();
        for name in due {
            changed = true;
            let root = self.root_mut(&name);
            if root.activate() {
                self.renew_below(&name)?;
            } else {
                root.prepare()?;
            }
        }
        for server in self.servers.values_mut() {
            let roots = &self.roots[server.root_name()];
            let signer = server.intermediate();
            if signer.is_some_and(|signer| signer.lived(PREPARE_SHARE, now)) {
                server.renew_signer(roots)?;
                changed = true;
            }
            changed |= server.renew_due(now, roots)?;
        }
        for root in self.roots.values_mut() {
            root.drop_expired(now);
        }
        Ok(changed)
    }

    fn renew_below(&mut self, root: &RootName) -> Result<(), AuthorityError> {
        let roots = &self.roots[root];
        self.servers
            .values_mut()
            .filter(|server| server.root_name() == root)
            .try_for_each(|server| server.renew_signer(roots))
    }

    fn root_mut(&mut self, name: &RootName) -> &mut RootSet {
        self.roots.get_mut(name).expect("each server has its root")
    }

    fn server_mut(&mut self, name: &str) -> Result<(&mut Server, &mut RootSet), AuthorityError> {
        if !self.servers.contains_key(name) {
            return Err(unknown_authority(&self.servers, name));
        }
        let server = self.servers.get_mut(name).expect("it is there");
        let roots = self.roots.get_mut(server.root_name());
        Ok((server, roots.expect("each server has its root")))
    }
}

/// When the root is to be prepared or activated.
fn root_due(root: &RootSet) -> SystemTime {
    let share = if root.is_prepared() {
        ACTIVATE_SHARE
    } else {
        PREPARE_SHARE
    };
    root.active().lived_at(share)
}

fn unknown_authority(servers: &BTreeMap<String, Server>, name: &str) -> AuthorityError {
    let known: Vec<_> = servers.keys().map(String::as_str).collect();
    AuthorityError::UnknownAuthority(name.to_owned(), known.join(", "))
}
