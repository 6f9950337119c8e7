//! Why a token is refused.

/// In the words of Envoy, which are the body of its answers (hence their capitals).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("Jwt is missing")]
    Missing,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwt is expired")]
    Expired,
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    BadFormat,
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBadBase64,
    #[error("Jwt header is an invalid JSON")]
    HeaderBadJson,
    #[error("Jwt header [alg] field is required and must be a string")]
    HeaderBadAlg,
    #[error("Jwt header [alg] is not supported")]
    HeaderNotImplementedAlg,
    #[error("Jwt header [kid] field is not a string")]
    HeaderBadKid,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBadBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadBadJson,
    #[error("Jwt payload [iss] field is not a string")]
    IssNotString,
    #[error("Jwt payload [sub] field is not a string")]
    SubNotString,
    #[error("Jwt payload [iat] field is not an integer")]
    IatNotInteger,
    #[error("Jwt payload [iat] field is not a positive 64 bit integer")]
    IatOutOfRange,
    #[error("Jwt payload [nbf] field is not an integer")]
    NbfNotInteger,
    #[error("Jwt payload [nbf] field is not a positive 64 bit integer")]
    NbfOutOfRange,
    #[error("Jwt payload [exp] field is not an integer")]
    ExpNotInteger,
    #[error("Jwt payload [exp] field is not a positive 64 bit integer")]
    ExpOutOfRange,
    #[error("Jwt payload [jti] field is not a string")]
    JtiNotString,
    #[error("Jwt payload [aud] field is not a string or string list")]
    AudNotString,
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBadBase64,
    #[error("Jwt issuer is not configured")]
    UnknownIssuer,
    #[error("Audiences in Jwt are not allowed")]
    AudienceNotAllowed,
    #[error("Jwt verification fails")]
    VerificationFail,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    /// There are no keys: who has them could not be asked.
    #[error("Jwks remote fetch is failed")]
    Fetch,
}

impl JwtError {
    /// The number that Envoy's filter leaves in metadata (`failed_status_in_metadata`).
    pub fn code(self) -> u32 {
        match self {
            Self::Missing => 1,
            Self::NotYetValid => 2,
            Self::Expired => 3,
            Self::BadFormat => 4,
            Self::HeaderBadBase64 => 5,
            Self::HeaderBadJson => 6,
            Self::HeaderBadAlg => 7,
            Self::HeaderNotImplementedAlg => 8,
            Self::HeaderBadKid => 9,
            Self::PayloadBadBase64 => 10,
            Self::PayloadBadJson => 11,
            Self::IssNotString => 12,
            Self::SubNotString => 13,
            Self::IatNotInteger => 14,
            Self::IatOutOfRange => 15,
            Self::NbfNotInteger => 16,
            Self::NbfOutOfRange => 17,
            Self::ExpNotInteger => 18,
            Self::ExpOutOfRange => 19,
            Self::JtiNotString => 20,
            Self::AudNotString => 21,
            Self::SignatureBadBase64 => 22,
            Self::UnknownIssuer => 24,
            Self::AudienceNotAllowed => 25,
            Self::VerificationFail => 26,
            Self::NoKey => 32,
            Self::Fetch => 40,
        }
    }
}
