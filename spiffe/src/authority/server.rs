//! One authority of one trust domain: its signing CA and its workloads.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tracing::info;

use super::{
    AuthorityError, TrustDomainConfig, WorkloadConfig,
    ca::{CertificateAuthority, Serial},
    jwt::JwtAuthority,
    leaf::{Issued, LeafRequest, Signer, issue},
    roots::{RootName, RootSet},
};
use crate::{JwtBundle, JwtSvid, SpiffeId, TrustDomain, X509Svid};

/// An SVID that its CA's end made very short is not renewed more often than this.
const MIN_RENEWAL: Duration = Duration::from_millis(250);

pub(super) struct Server {
    config: TrustDomainConfig,
    root: RootName,
    intermediate: Option<CertificateAuthority>,
    /// They still sign CRLs.
    old_intermediates: Vec<CertificateAuthority>,
    jwt: JwtAuthority,
    workloads: BTreeMap<SpiffeId, Workload>,
}

/// A registered workload with its current SVID.
pub(super) struct Workload {
    config: WorkloadConfig,
    svid: Arc<X509Svid>,
    serial: Serial,
    renew_at: SystemTime,
}

impl Workload {
    pub(super) fn config(&self) -> &WorkloadConfig {
        &self.config
    }

    pub(super) fn svid(&self) -> Arc<X509Svid> {
        Arc::clone(&self.svid)
    }

    pub(super) fn serial(&self) -> &Serial {
        &self.serial
    }
}

impl Server {
    pub(super) fn new(
        mut config: TrustDomainConfig,
        roots: &RootSet,
    ) -> Result<Self, AuthorityError> {
        let workloads = std::mem::take(&mut config.workloads);
        let mut server = Self {
            root: RootName::of(&config),
            intermediate: intermediate(&config, roots)?,
            old_intermediates: Vec::new(),
            jwt: JwtAuthority::new()?,
            workloads: BTreeMap::new(),
            config,
        };
        for workload in workloads {
            server.grant(workload, roots)?;
        }
        Ok(server)
    }

    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.config.name
    }

    pub(super) fn svid_ttl(&self) -> Duration {
        self.config.svid_ttl
    }

    pub(super) fn root_name(&self) -> &RootName {
        &self.root
    }

    pub(super) fn has_intermediate(&self) -> bool {
        self.intermediate.is_some()
    }

    pub(super) fn intermediate(&self) -> Option<&CertificateAuthority> {
        self.intermediate.as_ref()
    }

    pub(super) fn signers_mut(&mut self) -> impl Iterator<Item = &mut CertificateAuthority> {
        self.intermediate
            .iter_mut()
            .chain(&mut self.old_intermediates)
    }

    pub(super) fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values()
    }

    pub(super) fn workload(&self, id: &SpiffeId) -> Result<&Workload, AuthorityError> {
        self.workloads.get(id).ok_or_else(|| self.unknown(id))
    }

    pub(super) fn check_own(&self, id: &SpiffeId) -> Result<(), AuthorityError> {
        if id.trust_domain_name() != self.config.name.as_str() {
            return Err(AuthorityError::ForeignId {
                id: id.clone(),
                trust_domain: self.config.name.clone(),
            });
        }
        Ok(())
    }

    /// Who signs leaves now.
    pub(super) fn signer<'a>(&'a self, roots: &'a RootSet) -> Signer<'a> {
        match &self.intermediate {
            Some(ca) => Signer {
                ca,
                intermediates: vec![ca.certificate.clone()],
            },
            None => Signer {
                ca: roots.active(),
                intermediates: Vec::new(),
            },
        }
    }

    pub(super) fn grant(
        &mut self,
        config: WorkloadConfig,
        roots: &RootSet,
    ) -> Result<(), AuthorityError> {
        let workload = self.issue(config, roots)?;
        self.workloads.insert(workload.config.id.clone(), workload);
        Ok(())
    }

    pub(super) fn withdraw(&mut self, id: &SpiffeId) -> Result<(), AuthorityError> {
        match self.workloads.remove(id) {
            Some(_) => Ok(()),
            None => Err(self.unknown(id)),
        }
    }

    pub(super) fn renew(&mut self, id: &SpiffeId, roots: &RootSet) -> Result<(), AuthorityError> {
        let config = self.workload(id)?.config.clone();
        self.grant(config, roots)
    }

    pub(super) fn renew_all(&mut self, roots: &RootSet) -> Result<(), AuthorityError> {
        let ids: Vec<_> = self.workloads.keys().cloned().collect();
        ids.iter().try_for_each(|id| self.renew(id, roots))
    }

    /// Renews the workloads that are due; says whether any was.
    pub(super) fn renew_due(
        &mut self,
        now: SystemTime,
        roots: &RootSet,
    ) -> Result<bool, AuthorityError> {
        let due = self
            .workloads
            .values()
            .filter(|workload| workload.renew_at <= now);
        let due: Vec<_> = due.map(|workload| workload.config.id.clone()).collect();
        due.iter().try_for_each(|id| self.renew(id, roots))?;
        Ok(!due.is_empty())
    }

    pub(super) fn next_renewal(&self) -> Option<SystemTime> {
        self.workloads
            .values()
            .map(|workload| workload.renew_at)
            .min()
    }

    /// Makes a new intermediate, if there is one, below the active root, and issues all SVIDs anew.
    pub(super) fn renew_signer(&mut self, roots: &RootSet) -> Result<(), AuthorityError> {
        let now = SystemTime::now();
        self.old_intermediates.retain(|ca| ca.not_after >= now);
        let new = intermediate(&self.config, roots)?;
        let old = std::mem::replace(&mut self.intermediate, new);
        self.old_intermediates.extend(old);
        self.renew_all(roots)
    }

    pub(super) fn mint_jwt(
        &self,
        workload: &WorkloadConfig,
        audience: &[String],
    ) -> Option<JwtSvid> {
        self.jwt.mint(
            &workload.id,
            workload.hint.as_deref(),
            audience,
            self.config.jwt_ttl,
        )
    }

    pub(super) fn jwt_bundle(&self) -> Arc<JwtBundle> {
        self.jwt.bundle()
    }

    fn issue(&self, config: WorkloadConfig, roots: &RootSet) -> Result<Workload, AuthorityError> {
        let request = LeafRequest {
            id: &config.id,
            dns: &config.dns,
            hint: config.hint.as_deref(),
            ttl: config.ttl.unwrap_or(self.config.svid_ttl),
        };
        let Issued {
            svid,
            serial,
            issued,
        } = issue(&self.signer(roots), &request)?;
        let life = svid
            .not_after
            .duration_since(issued)
            .unwrap_or(Duration::ZERO);
        info!(id = %svid.id, %serial, ttl = ?request.ttl, "issued an SVID");
        Ok(Workload {
            renew_at: issued + (life / 2).max(MIN_RENEWAL),
            svid: Arc::new(svid),
            serial,
            config,
        })
    }

    fn unknown(&self, id: &SpiffeId) -> AuthorityError {
        AuthorityError::UnknownWorkload {
            authority: self.config.authority().to_owned(),
            id: id.clone(),
        }
    }
}

fn intermediate(
    config: &TrustDomainConfig,
    roots: &RootSet,
) -> Result<Option<CertificateAuthority>, AuthorityError> {
    let Some(key) = config.intermediate else {
        return Ok(None);
    };
    let root = roots.active();
    let ca = CertificateAuthority::intermediate(root, &config.name, key, config.ca_ttl)?;
    Ok(Some(ca))
}
