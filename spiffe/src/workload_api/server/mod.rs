//! The server half: hands out what a [`Provider`] holds for each caller, with SPIRE's errors.

mod streams;

use std::sync::Arc;

use ithildin_proto::{
    pb::google::protobuf::{self, value::Kind},
    workload::{
        JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
        ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
        X509svidRequest, X509svidResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
};
use serde_json::Value;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{MAX_MESSAGE_BYTES, SECURITY_HEADER, SECURITY_HEADER_VALUE};
use crate::{
    Caller, JwtProvider, Provider, SpiffeId,
    jwt::{JwtBundles, JwtSvid},
};
use streams::Answers;
pub use streams::x509_svid_response;

/// What SPIRE answers to a caller without an identity.
const NO_IDENTITY: &str = "no identity issued";

/// The Workload API over a [`Provider`]. Without a [`JwtProvider`] the JWT methods are unimplemented.
#[derive(Clone)]
pub struct WorkloadApiServer {
    x509: Arc<dyn Provider>,
    jwt: Option<Arc<dyn JwtProvider>>,
}

impl WorkloadApiServer {
    /// The gRPC service, for a tonic server.
    pub fn service(
        x509: Arc<dyn Provider>,
        jwt: Option<Arc<dyn JwtProvider>>,
    ) -> SpiffeWorkloadApiServer<Self> {
        SpiffeWorkloadApiServer::new(Self { x509, jwt })
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    fn jwt(&self, method: &str) -> Result<&dyn JwtProvider, Status> {
        let unimplemented = || Status::unimplemented(format!("{method} is not offered here"));
        self.jwt.as_deref().ok_or_else(unimplemented)
    }
}

#[async_trait::async_trait]
impl SpiffeWorkloadApi for WorkloadApiServer {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        check_security_header(&request)?;
        let states = self.x509.identities(&Caller::of(&request));
        Ok(Response::new(streams::svids(states)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        check_security_header(&request)?;
        let states = self.x509.identities(&Caller::of(&request));
        Ok(Response::new(streams::bundles(states)))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        check_security_header(&request)?;
        let provider = self.jwt("FetchJWTSVID")?;
        let caller = Caller::of(&request);
        let request = request.into_inner();
        if request.audience.is_empty() || request.audience.iter().any(String::is_empty) {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        let id = match request.spiffe_id.as_str() {
            "" => None,
            id => Some(SpiffeId::parse(id).map_err(|error| {
                Status::invalid_argument(format!("invalid requested SPIFFE ID: {id:?} {error}"))
            })?),
        };
        let svids = provider.mint(&caller, &request.audience, id.as_ref());
        if svids.is_empty() {
            return Err(Status::permission_denied(NO_IDENTITY));
        }
        let svids = svids.into_iter().map(jwt_svid).collect();
        Ok(Response::new(JwtsvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        check_security_header(&request)?;
        let bundles = self.jwt("FetchJWTBundles")?.bundles(&Caller::of(&request));
        Ok(Response::new(streams::jwt_bundles(bundles)))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        check_security_header(&request)?;
        let bundles = self.jwt("ValidateJWTSVID")?.bundles(&Caller::of(&request));
        let request = request.into_inner();
        if request.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        if request.svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        validate(&request, &bundles).map(Response::new)
    }
}

fn validate(
    request: &ValidateJwtsvidRequest,
    bundles: &watch::Receiver<Option<Arc<JwtBundles>>>,
) -> Result<ValidateJwtsvidResponse, Status> {
    let bundles = bundles.borrow().clone();
    let bundles = bundles.ok_or_else(|| Status::permission_denied(NO_IDENTITY))?;
    let svid = JwtSvid::validate(&request.svid, &request.audience, &bundles)
        .map_err(|error| Status::invalid_argument(format!("the JWT-SVID {error}")))?;
    let fields = svid.claims.iter();
    let fields = fields.map(|(name, claim)| (name.clone(), to_protobuf(claim)));
    Ok(ValidateJwtsvidResponse {
        spiffe_id: svid.id.to_string(),
        claims: Some(protobuf::Struct {
            fields: fields.collect(),
        }),
    })
}

/// A call that lacks the header may have been forged through somebody's web client.
fn check_security_header<T>(request: &Request<T>) -> Result<(), Status> {
    let mut values = request.metadata().get_all(SECURITY_HEADER).iter();
    let first = values.next().map(|value| value.as_bytes());
    if first != Some(SECURITY_HEADER_VALUE.as_bytes()) || values.next().is_some() {
        return Err(Status::invalid_argument(
            "security header missing from request",
        ));
    }
    Ok(())
}

fn jwt_svid(svid: JwtSvid) -> Jwtsvid {
    Jwtsvid {
        spiffe_id: svid.id.to_string(),
        svid: svid.token().to_owned(),
        hint: svid.hint.unwrap_or_default(),
    }
}

fn to_protobuf(value: &Value) -> protobuf::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(values) => Kind::ListValue(protobuf::ListValue {
            values: values.iter().map(to_protobuf).collect(),
        }),
        Value::Object(values) => Kind::StructValue(protobuf::Struct {
            fields: values
                .iter()
                .map(|(name, value)| (name.clone(), to_protobuf(value)))
                .collect(),
        }),
    };
    protobuf::Value { kind: Some(kind) }
}
