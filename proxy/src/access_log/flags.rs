//! Response flags: what went wrong, in Envoy's short codes.

use std::{fmt, ops};

/// A set of Envoy's response flags (`%RESPONSE_FLAGS%`), in the order in which they were set: so
/// Envoy prints them. It is a list of numbers from 1, the first one lowest; there is room for 12,
/// and nothing goes wrong in more than a few ways.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ResponseFlags(u64);

/// Of one number in the list.
const BITS: u32 = 5;
const MASK: u64 = (1 << BITS) - 1;

/// Declares the flags with their short codes and their long names, as Envoy numbers them.
macro_rules! flags {
    ($( $(#[$meta:meta])* $flag:ident = $bit:literal, $code:literal, $long:literal; )*) => {
        impl ResponseFlags {
            $( $(#[$meta])* pub const $flag: Self = Self($bit + 1); )*
        }

        /// Flag, short code, long name.
        const FLAGS: &[(ResponseFlags, &str, &str)] = &[
            $( (ResponseFlags::$flag, $code, $long), )*
        ];
    };
}

flags! {
    FAILED_LOCAL_HEALTH_CHECK = 0, "LH", "FailedLocalHealthCheck";
    NO_HEALTHY_UPSTREAM = 1, "UH", "NoHealthyUpstream";
    UPSTREAM_REQUEST_TIMEOUT = 2, "UT", "UpstreamRequestTimeout";
    LOCAL_RESET = 3, "LR", "LocalReset";
    UPSTREAM_REMOTE_RESET = 4, "UR", "UpstreamRemoteReset";
    UPSTREAM_CONNECTION_FAILURE = 5, "UF", "UpstreamConnectionFailure";
    UPSTREAM_CONNECTION_TERMINATION = 6, "UC", "UpstreamConnectionTermination";
    UPSTREAM_OVERFLOW = 7, "UO", "UpstreamOverflow";
    NO_ROUTE_FOUND = 8, "NR", "NoRouteFound";
    DELAY_INJECTED = 9, "DI", "DelayInjected";
    FAULT_INJECTED = 10, "FI", "FaultInjected";
    RATE_LIMITED = 11, "RL", "RateLimited";
    UNAUTHORIZED_EXTERNAL_SERVICE = 12, "UAEX", "UnauthorizedExternalService";
    RATE_LIMIT_SERVICE_ERROR = 13, "RLSE", "RateLimitServiceError";
    DOWNSTREAM_CONNECTION_TERMINATION = 14, "DC", "DownstreamConnectionTermination";
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 15, "URX", "UpstreamRetryLimitExceeded";
    STREAM_IDLE_TIMEOUT = 16, "SI", "StreamIdleTimeout";
    INVALID_ENVOY_REQUEST_HEADERS = 17, "IH", "InvalidEnvoyRequestHeaders";
    DOWNSTREAM_PROTOCOL_ERROR = 18, "DPE", "DownstreamProtocolError";
    UPSTREAM_MAX_STREAM_DURATION_REACHED = 19, "UMSDR", "UpstreamMaxStreamDurationReached";
    RESPONSE_FROM_CACHE_FILTER = 20, "RFCF", "ResponseFromCacheFilter";
    NO_FILTER_CONFIG_FOUND = 21, "NFCF", "NoFilterConfigFound";
    DURATION_TIMEOUT = 22, "DT", "DurationTimeout";
    UPSTREAM_PROTOCOL_ERROR = 23, "UPE", "UpstreamProtocolError";
    NO_CLUSTER_FOUND = 24, "NC", "NoClusterFound";
    OVERLOAD_MANAGER = 25, "OM", "OverloadManagerTerminated";
    DNS_RESOLUTION_FAILED = 26, "DF", "DnsResolutionFailed";
    DROP_OVERLOAD = 27, "DO", "DropOverload";
    DOWNSTREAM_REMOTE_RESET = 28, "DR", "DownstreamRemoteReset";
    UNCONDITIONAL_DROP_OVERLOAD = 29, "UDO", "UnconditionalDropOverload";
}

impl ResponseFlags {
    pub const NONE: Self = Self(0);

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Bit by bit, as Envoy numbers them.
    pub fn bits(self) -> u32 {
        self.list().fold(0, |bits, flag| bits | 1 << (flag.0 - 1))
    }

    /// Whether all of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        other.list().all(|flag| self.has(flag))
    }

    /// Whether any of `other` is set.
    pub fn intersects(self, other: Self) -> bool {
        other.list().any(|flag| self.has(flag))
    }

    /// Adds those of `other` that are not set, behind the others.
    pub fn insert(&mut self, other: Self) {
        for flag in other.list() {
            if !self.has(flag) {
                let used = u64::BITS - self.0.leading_zeros();
                let place = used.next_multiple_of(BITS);
                if place + BITS <= u64::BITS {
                    self.0 |= flag.0 << place;
                }
            }
        }
    }

    /// The flag with this short code (`UH`).
    pub fn from_code(code: &str) -> Option<Self> {
        let mut flags = FLAGS.iter();
        flags
            .find(|(_, short, _)| *short == code)
            .map(|(flag, ..)| *flag)
    }

    /// The short codes that are set.
    pub fn codes(self) -> impl Iterator<Item = &'static str> {
        self.set().map(|(_, code, _)| *code)
    }

    /// The long names that are set (`%RESPONSE_FLAGS_LONG%`).
    pub fn long_names(self) -> impl Iterator<Item = &'static str> {
        self.set().map(|(_, _, long)| *long)
    }

    fn set(self) -> impl Iterator<Item = &'static (Self, &'static str, &'static str)> {
        let entry = |flag| FLAGS.iter().find(|(it, ..)| *it == flag);
        self.list().filter_map(entry)
    }

    fn has(self, flag: Self) -> bool {
        self.list().any(|it| it == flag)
    }

    /// Each flag of its own.
    fn list(self) -> impl Iterator<Item = Self> {
        let rest = |rest: &u64| Some(rest >> BITS);
        let lists = std::iter::successors(Some(self.0), rest).take_while(|rest| *rest != 0);
        lists.map(|rest| Self(rest & MASK))
    }
}

impl ops::BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(mut self, other: Self) -> Self {
        self.insert(other);
        self
    }
}

impl ops::BitOrAssign for ResponseFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.insert(other);
    }
}

/// As in an access log: `UF,URX`, or `-`.
impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (index, code) in self.codes().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(code)?;
        }
        Ok(())
    }
}

impl fmt::Debug for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseFlags({self})")
    }
}
