# Both binaries in a small image without a shell, as a user without rights.

# Only for the target with-envoy.
ARG PROXYV2=docker.io/istio/proxyv2:1.28.0

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin pilot-agent --bin ithildin-proxy

# What `istio-iptables` runs, with the libraries that the last image lacks.
FROM debian:bookworm-slim AS tools
RUN apt-get update \
    && apt-get install -y --no-install-recommends iptables nftables \
    && mkdir /tools \
    && dpkg -L iptables nftables libip4tc2 libip6tc2 libmnl0 libnetfilter-conntrack3 libnfnetlink0 libnftables1 \
        libnftnl11 libxtables12 libgmp10 libjansson4 libedit2 libbsd0 libmd0 libtinfo6 \
    | grep -E '^/(usr/)?(sbin|lib)/.' | sort -u \
    | tar -c --no-recursion --transform='s,^/*lib/,usr/lib/,' -T - | tar -x -C /tools

# Envoy as the data plane: Istio's own image, with our agent in place of its own.
#   docker build --target with-envoy --build-arg PROXYV2=docker.io/istio/proxyv2:1.28.0 .
# and ITHILDIN_DATA_PLANE=envoy in the container's environment.
FROM ${PROXYV2} AS with-envoy
COPY --from=build /src/target/release/pilot-agent /usr/local/bin/

# The built-in data plane, in place of proxyv2: the same paths, the same user, the same entry point.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/pilot-agent /src/target/release/ithildin-proxy /usr/local/bin/
COPY --from=tools /tools/ /
# Relative paths, as ./etc/istio/proxy and ./var/run/secrets, are meant from the root.
WORKDIR /
# Istio's sidecars and gateways run as 1337.
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/pilot-agent"]
