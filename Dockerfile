# Both binaries in a small image without a shell, as a user without rights.
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

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/pilot-agent /src/target/release/ithildin-proxy /usr/local/bin/
COPY --from=tools /tools/ /
# Istio's sidecars and gateways run as 1337.
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/pilot-agent"]
