//! A mesh under an unmodified istiod, on both data planes, with identities from SPIRE.

mod bookinfo;
